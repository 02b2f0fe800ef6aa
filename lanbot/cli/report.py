"""lanbot report: write a run's report."""

from json import dumps

from lanbot.cli.shared import open_run


def report(run: str, *, json: bool = False) -> None:
    """Write a run's report (HTML, Markdown, JSON) and show its tables.

    Args:
        run: A run's name or folder.
        json: Print report.json.
    """
    from lanbot import report as reports

    made = open_run(run)
    written = reports.write(made)
    if json:
        print(dumps(written))
        return
    if reports.trained(written):
        print(reports.evaluation_table(written), reports.training_table(written), sep="\n\n", end="\n\n")
    if written["planned"]:
        print(reports.planned_table(written), end="\n\n")
    print(reports.closing(made, written))
