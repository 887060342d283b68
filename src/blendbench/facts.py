"""What is to be known of a number: the one place that tables, pages, bold type and correlations read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """Facts about a metric, a listeners' scale, or a level.

    Attributes
    ----------
    label : str
        Heading of a table's column.
    unit : str
    higher_is_better : bool or None
        None where neither end is better.
    source : str
        Paper, equation or standard.
    """

    label: str
    unit: str = ""
    higher_is_better: bool | None = None
    source: str = ""

    @property
    def better(self) -> int:
        """1 where higher is better, -1 where lower is, 0 where neither."""
        return 0 if self.higher_is_better is None else 1 if self.higher_is_better else -1
