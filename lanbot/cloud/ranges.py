"""Numbers that are known only within bounds."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Range:
    """Bounds and an expected value. Sums and products take low with low and high with high: errors of a plan, such as
    a slow machine, concern all of its parts alike."""

    low: float
    expected: float
    high: float

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def __mul__(self, other: "Range | float") -> "Range":
        if isinstance(other, Range):
            return Range(self.low * other.low, self.expected * other.expected, self.high * other.high)
        return Range(self.low * other, self.expected * other, self.high * other)

    def __bool__(self) -> bool:
        return self.high > 0

    def seconds_for(self, amount: float) -> "Range":
        """The time for `amount` at this speed: the highest speed gives the lowest time."""
        return Range(amount / self.high, amount / self.expected, amount / self.low)

    def beyond(self, other: "Range") -> "Range":
        """By how much this is more than `other`, 0 where it is less."""
        return Range(*(max(0.0, mine - theirs) for mine, theirs in zip(self.values, other.values, strict=True)))

    @property
    def values(self) -> tuple[float, float, float]:
        return self.low, self.expected, self.high

    def json(self) -> dict[str, float]:
        return {name: round(value, 2) for name, value in asdict(self).items()}


NOTHING = Range(0.0, 0.0, 0.0)


def largest(one: Range, other: Range) -> Range:
    return Range(*(max(pair) for pair in zip(one.values, other.values, strict=True)))


def total(ranges: "list[Range]") -> Range:
    return sum(ranges, NOTHING)
