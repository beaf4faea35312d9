"""Import of outcomes in other formats; each format has a command that writes a profile."""

from experiments.importing.emnlp24 import ImportEmnlp24Sprout
from experiments.importing.table import ImportCsv

IMPORTS = {"emnlp24-sprout": ImportEmnlp24Sprout, "csv": ImportCsv}
