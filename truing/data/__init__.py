"""Named sources to evidence, strictly: every row is kept, repaired, shortened or refused, and counted.

Read it in this order: :mod:`lines` (bytes to raw rows), :mod:`sources` (files, folders, the Hub, objects),
:mod:`turns` and :mod:`shapes` (a raw row to a pair, a demo, a prompt ...), :mod:`contract` (the ledger, and length in
tokens), :mod:`views` (rows larger than memory), :mod:`load` (all of it in one call).
"""

from truing.data.contract import HEADER as HEADER
from truing.data.contract import Ledger as Ledger
from truing.data.contract import Lengths as Lengths
from truing.data.contract import Measurer as Measurer
from truing.data.load import Loaded as Loaded
from truing.data.load import divide as divide
from truing.data.load import held_out as held_out
from truing.data.load import load as load
from truing.data.shapes import Kind as Kind
from truing.data.sources import Source as Source
