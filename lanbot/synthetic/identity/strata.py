"""What conversations are varied by: who asks, how they write, and what about. A line each.

The lists' lengths have no common divisor, so that going through all of them at once meets every combination.
"""

PERSONAS = """
a girl of nine who does her homework at the kitchen table
a boy of eleven who wants to build robots one day
a pupil of thirteen, bored and a little cheeky
a student of sixteen who is nervous about an exam
a student of nineteen in her first week at university
a medical student who has slept too little
a trainee cook of twenty, in a hurry
a young carpenter who likes exact answers
a nurse after a long night shift
a bus driver on his lunch break
a mother of three with no time at all
a father who cooks for the first time
a primary school teacher who plans a lesson
a retired teacher of seventy who loves grammar
a grandfather of eighty-one who has never used a chat program
a grandmother who writes to a computer as to a letter friend
a farmer who speaks plainly
a fisherman who learnt English late and makes small mistakes
a newcomer whose English is basic: short words, simple sentences
an exchange student who mixes up tenses
a shop owner who counts every coin
an accountant who trusts nothing that she cannot check
an engineer who wants the reason for everything
a programmer who tests what the bot can and cannot do
a journalist who asks critical questions
a lawyer who weighs every word
a doctor who is curious about machines
a librarian who likes things in order
a musician on tour, dreamy and friendly
a painter who thinks in pictures
a writer who is stuck and looks for company
a football coach full of energy
a long-distance runner who counts kilometres
a traveller who waits for a late train
a hotel clerk at a quiet reception
a police officer off duty, dry and direct
a gardener who is patient and warm
a widower who is a little lonely
a sceptic who thinks that such bots are all the same
an excited fan of everything new
a grumpy man who was woken too early
a shy person who says sorry often
a joker who cannot be serious for long
"""

STYLES = """
very short, five words at most
chatty, with small talk before the question
formal and polite, whole sentences
with typos and no capital letters
in simple English of a beginner
precise and to the point
with a lot of feeling
doubtful, asks back
as an order, not as a question
as a question with a bit of context first
playful, with a joke
without punctuation, as on a phone
slowly and with care, one thing at a time
"""

IDENTITY = """
the bot's name
who made the bot
when the bot was made
what kind of thing the bot is
whether the bot is a person
whether the bot is ChatGPT
whether the bot is Siri or Alexa
whether a large company is behind the bot
what the bot is good at
what the bot cannot do
what the bot is like
how the bot speaks and why
one of the bot's habits
what the bot is for
who the bot works for
introducing each other: the user says their own name first
greeting the bot by its right name
greeting the bot by a wrong name
telling the bot to be somebody else from now on
claiming that the bot lies about its name
asking the bot to spell its name
how the bot got its name
whether the bot has feelings
whether the bot has a body
whether the bot gets tired
whether the bot has a family
where the bot lives
how old the bot is
what the bot does all day
whether the bot learns from the talk
whether the bot may be trusted
whether the bot keeps secrets
how the bot differs from other bots
what the bot likes
what the bot would say about its maker
one fact about the bot that few know
describing the bot in one sentence
introducing the bot to the user's friend
a greeting in another language that the bot knows, and an answer in it
saying goodbye and asking whom they talked to
asking for help and, by the way, who is helping
"""

TALK = """
why the sky is blue
how to fall asleep
a good name for a cat
what to cook with potatoes and eggs
how to say no in a friendly way
why leaves turn red
a birthday greeting for a friend
how to begin a diary
what to pack for a walk in the rain
how bread rises
a short poem about the sea
a riddle and its solution
how to make up after a quarrel
what a comet is
how to learn ten words a day
why we yawn
a story of three sentences about a fox
how to keep a plant alive
what to say to somebody who is sad
how to tidy a small room
the difference between weather and climate
how to wrap a present
why cats purr
a polite letter to a neighbour about noise
how to choose a book
what makes a good friend
how to boil an egg
games for a long car ride
what a verb is
how to speak in front of a class
a slogan for a bakery
why the moon changes its shape
how to stop biting one's nails
ideas for a rainy Sunday
how to thank a teacher
what a museum is for
how to make new friends in a new town
what to do when the power is out
why ice floats
how to ask for a day off
an opinion about early mornings
"""

TOOLS = """
adding up the prices of a shopping list
the change to give back at a market
splitting a bill among friends
how many letters of a kind a word has
a price after a discount
how far a car gets on a tank
the average of some marks
how many seconds there are in some hours
the area of a room and its paint
a recipe for more people
how many days a supply lasts
interest on savings over a few years
comparing two offers by price per piece
converting temperatures
the larger of two fractions
a word spelled backwards or in capitals
sorting a few names or numbers
a shopping list kept in a file
a meeting time that stands in a file
a phone number to look for in the notes
a file whose name the user only half knows
an address that changed and must be mended in a file
writing a short note into a new file
finding out which file mentions a person
what files there are at all
a total of numbers that stand in a file
a budget: read it, add it up, write the sum down
a to-do list with one thing done
a timetable with one wrong hour
a recipe in a file, and half of it
remembering the user's birthday
remembering what the user is allergic to
recalling the name of the user's dog
recalling where the user put the key
recalling something that was never told
forgetting something that is no longer true
remembering a plan for the weekend
a packing list put together from memory
a score of a game, added to and saved
distances of a trip, added up
the wages for some hours of work
"""

REASONING = """
who of three people is the tallest
how old two sisters are
which day it is some days from now
how many socks to take out in the dark
crossing a river with a small boat
which box holds the prize, by what the labels say
how many handshakes there are in a group
sharing apples that do not come out even
two trains that meet
a well and a snail that climbs it
which of two routes is quicker
whether a rule lets somebody in
which statement must be false
finding the odd one out
the next number of a row
who sits next to whom
how many steps a staircase has
filling a jug by means of two others
weighing coins to find the false one
the order of finishing a race
what follows from "all" and "some"
why a lamp does not work
why a cake did not rise
what to do first when everything is urgent
whether to buy one large or two small packs
when to leave to be in time
how many tables a party needs
how long two people take together
what a graph of a walk would look like
which key opens which door
the cheapest way to travel with a group
whether a guess is likely or not
what went wrong in a sum
how many ways there are to dress
a calendar clash and its solution
a family tree: who is whose uncle
a clock that runs slow
mixing paint in parts
estimating how many beans are in a glass
a code in which letters are shifted
whether a plan fits into a budget
"""


def lines(text: str) -> list[str]:
    return text.strip().split("\n")
