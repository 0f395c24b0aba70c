"""Text: files as tokens - bytes, characters, subwords - in windows for training and evaluation."""

from neuromix.data.text.dataset import NOT_SCORED, ShiftedWindows, Text, TextWindows, open_text
from neuromix.data.text.tokeniser import Tokeniser, open_tokeniser

__all__ = ["NOT_SCORED", "ShiftedWindows", "Text", "TextWindows", "Tokeniser", "open_text", "open_tokeniser"]
