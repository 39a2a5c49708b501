import numpy as np
import pytest

from mlresearch.data.text import PAD_ID, UNK_ID, Tokenizer
from mlresearch.errors import UserError

CORPUS = [
    f"{kind} fracture of the {side} {bone}, {when} encounter"
    for kind in ("open", "closed", "Displaced")
    for side in ("left", "right")
    for bone in ("femur", "tibia", "ulna", "radius")
    for when in ("initial", "subsequent")
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CORPUS, vocab_size=80)


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_equal_texts_give_equal_models(algorithm):
    first, second = (Tokenizer.train(iter(CORPUS), vocab_size=60, algorithm=algorithm) for _ in range(2))
    assert first.model == second.model
    assert first.vocab_size <= 60
    assert Tokenizer.train(CORPUS[:20], vocab_size=60, algorithm=algorithm).model != first.model


def test_algorithms_differ_in_the_model():
    unigram, bpe = (Tokenizer.train(CORPUS, vocab_size=60, algorithm=name) for name in ("unigram", "bpe"))
    assert unigram.encode(CORPUS, 99).tokens.tolist() != bpe.encode(CORPUS, 99).tokens.tolist()


def test_training_is_quiet(capfd):
    Tokenizer.train(CORPUS, vocab_size=60)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_small_corpus_has_fewer_pieces_than_asked_for():
    assert Tokenizer.train(CORPUS, vocab_size=5000).vocab_size < 5000


def test_a_long_text_is_not_left_out_of_training():
    # "q" stands in the long text only, which is longer than SentencePiece's own limit of 4,192 bytes.
    trained = Tokenizer.train([*CORPUS, "qqq " * 3000], vocab_size=80)
    assert UNK_ID not in trained.encode(["qqq"], 9).tokens


def test_save_and_load_keep_every_id(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.model"
    tokenizer.save(path)
    loaded = Tokenizer.load(path)
    assert loaded.vocab_size == tokenizer.vocab_size
    np.testing.assert_array_equal(loaded.encode(CORPUS, 50).tokens, tokenizer.encode(CORPUS, 50).tokens)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokenizer.model"]


def test_rows_are_padded_to_the_longest_and_stand_for_their_own_text(tokenizer):
    texts = ["open fracture", CORPUS[0], "left"]
    together = tokenizer.encode(texts, 100)
    assert together.tokens.dtype == together.lengths.dtype == np.int32
    assert together.tokens.shape == (3, together.lengths.max())
    for row, length, text in zip(together.tokens, together.lengths, texts, strict=True):
        alone = tokenizer.encode([text], 100)
        np.testing.assert_array_equal(row[:length], alone.tokens[0])
        assert (row[:length] != PAD_ID).all()
        assert (row[length:] == PAD_ID).all()
    assert together.num_tokens == together.lengths.sum()
    assert together.num_truncated_tokens == 0


def test_truncation_keeps_the_beginning_and_is_counted(tokenizer):
    texts = ["left", CORPUS[0], CORPUS[1]]
    full, cut = tokenizer.encode(texts, 100), tokenizer.encode(texts, 3)
    assert full.lengths[1] > 3
    np.testing.assert_array_equal(cut.lengths, np.minimum(full.lengths, 3))
    np.testing.assert_array_equal(cut.tokens, full.tokens[:, :3])
    assert cut.num_tokens == full.num_tokens
    assert cut.num_truncated_tokens == full.num_tokens - cut.lengths.sum()


@pytest.mark.parametrize("empty", ["", "  \t "])
def test_a_text_without_pieces_is_one_unknown(tokenizer, empty):
    encoding = tokenizer.encode([empty, "left"], 10)
    assert encoding.lengths[0] == 1
    assert encoding.tokens[0, 0] == UNK_ID


def test_no_texts_give_no_rows(tokenizer):
    encoding = tokenizer.encode([], 10)
    assert encoding.tokens.shape == (0, 0)
    assert encoding.num_tokens == 0


def test_lowercase_decides_whether_case_matters():
    folding, keeping = (Tokenizer.train(CORPUS, vocab_size=60, lowercase=option) for option in (True, False))
    for tokenizer, same in ((folding, True), (keeping, False)):
        upper, lower = (tokenizer.encode([text], 50).tokens.tolist() for text in ("Displaced", "displaced"))
        assert (upper == lower) is same


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_an_empty_corpus_is_an_error_for_people(texts):
    with pytest.raises(UserError, match="no text to train"):
        Tokenizer.train(texts, vocab_size=60)


def test_a_vocabulary_too_small_for_the_characters_is_an_error_for_people():
    with pytest.raises(UserError, match="4 pieces"):
        Tokenizer.train(CORPUS, vocab_size=4)


def test_misspelt_algorithm_suggests():
    with pytest.raises(UserError, match="did you mean 'unigram'"):
        Tokenizer.train(CORPUS, vocab_size=60, algorithm="unigramm")


def test_max_length_below_one_is_an_error(tokenizer):
    with pytest.raises(UserError, match="max_length"):
        tokenizer.encode(["left"], 0)


@pytest.mark.parametrize("content", [b"", b"no model at all"])
def test_a_damaged_model_file_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.model"):
        Tokenizer.load(path)


def test_a_missing_model_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(UserError, match=r"missing\.model"):
        Tokenizer.load(tmp_path / "missing.model")
