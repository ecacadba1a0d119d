"""Data: sources, objectives, tokenizers, packing, masking, and the Grain pipelines that make batches of them."""

from qtx.data.config import DataConfig, load, prepare_data
from qtx.data.dataset import Data
from qtx.data.objectives import OBJECTIVES
from qtx.data.sources import SOURCES
from qtx.data.tokenization import TextTokenizer
from qtx.data.tokenizer_files import load_tokenizer
from qtx.data.vocabularies import VOCABULARIES

__all__ = [
    "OBJECTIVES",
    "SOURCES",
    "VOCABULARIES",
    "Data",
    "DataConfig",
    "TextTokenizer",
    "load",
    "load_tokenizer",
    "prepare_data",
]
