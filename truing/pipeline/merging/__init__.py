"""mergekit's YAML: read, checked, planned and run, without a model being built."""

from truing.pipeline.merging.running import Options as Options
from truing.pipeline.merging.running import check as check
from truing.pipeline.merging.running import run as run
