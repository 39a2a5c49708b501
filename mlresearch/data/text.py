"""Texts as subword ids: a SentencePiece model, learnt from training texts and stored in its own format."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece
from jaxtyping import Int32

from mlresearch.errors import UserError, suggest
from mlresearch.files import write_bytes

PAD_ID = 0
UNK_ID = 1
ALGORITHMS = ("unigram", "bpe")


class Encoding(NamedTuple):
    """Token ids of texts, filled up with 0 to the longest, and how many tokens `max_length` cut off.

    num_tokens counts all texts before they were cut: the share lost is num_truncated_tokens / num_tokens.
    """

    tokens: Int32[np.ndarray, "examples length"]
    lengths: Int32[np.ndarray, "examples"]
    num_truncated_tokens: int
    num_tokens: int


class Tokenizer:
    """A trained subword model. Id 0 is padding and never stands for text; id 1 stands for unknown pieces.

    model: the bytes of a SentencePiece model file; anything else is a `UserError`.
    """

    def __init__(self, model: bytes) -> None:
        self.model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"not a SentencePiece model: {error}") from None
        if self._processor.pad_id() != PAD_ID:
            raise UserError(f"the SentencePiece model pads with {self._processor.pad_id()}, not with {PAD_ID}")

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocab_size: int, algorithm: str = "unigram", lowercase: bool = True
    ) -> "Tokenizer":
        """Learn at most `vocab_size` pieces from `texts`; equal texts in equal order give equal bytes.

        algorithm: "unigram" (Kudo 2018) or "bpe" (Sennrich et al. 2016). lowercase: fold case besides NFKC.
        It is a `UserError` if all texts are empty, or if `vocab_size` cannot hold every character.
        """
        if algorithm not in ALGORITHMS:
            raise UserError(f"unknown tokenizer algorithm {algorithm!r}{suggest(algorithm, ALGORITHMS)}")
        corpus = [text for text in texts if text.strip()]
        if not corpus:
            raise UserError("there is no text to train a tokenizer on: all training texts are empty")
        stored = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(corpus),
                model_writer=stored,
                model_type=algorithm,
                vocab_size=vocab_size,
                hard_vocab_limit=False,  # a small corpus has fewer pieces to offer
                character_coverage=1.0,
                normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
                max_sentence_length=1 << 24,  # longer texts would be left out in silence
                num_threads=1,  # the number of threads changes the model
                pad_id=PAD_ID,
                unk_id=UNK_ID,
                bos_id=-1,
                eos_id=-1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise UserError(f"no tokenizer of {vocab_size} pieces can be trained on these texts: {error}") from None
        return cls(stored.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read what `save` wrote; a file that is missing or damaged is a `UserError`."""
        try:
            return cls(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write SentencePiece's model file, whole or not at all."""
        write_bytes(path, self.model)

    @property
    def vocab_size(self) -> int:
        """Number of ids, padding and unknown included; may be less than asked for."""
        return self._processor.vocab_size()

    def pieces(self, text: str, max_length: int) -> tuple[str, ...]:
        """Return the pieces that `encode` gives ids of, as SentencePiece writes them: ▁ is a space."""
        return tuple(self._processor.encode(text, out_type=str) or ["<unk>"])[:max_length]

    def encode(self, texts: Sequence[str], max_length: int) -> Encoding:
        """Return the ids of each text, cut to the first `max_length`; a text without any is one unknown."""
        if max_length < 1:
            raise UserError(f"max_length is {max_length}; it must be at least 1")
        pieces = [ids or [UNK_ID] for ids in self._processor.encode(list(texts), num_threads=1)]
        full = np.array([len(ids) for ids in pieces], np.int32)
        lengths = np.minimum(full, max_length)
        tokens = np.full((len(pieces), lengths.max(initial=0)), PAD_ID, np.int32)
        for row, ids, length in zip(tokens, pieces, lengths, strict=True):
            row[:length] = ids[:length]
        return Encoding(tokens, lengths, int((full - lengths).sum()), int(full.sum()))
