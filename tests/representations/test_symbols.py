"""The symbol representation: what the tokens stand for, one length policy, a checkpoint complete by itself."""

import json

import numpy as np
import pytest

from ecglm.errors import ConfigError, EcglmError
from ecglm.representations.base import build_representation, reduce_rate
from ecglm.representations.ecg_byte import EcgByte
from ecglm.representations.symbols import SymbolsRepresentation, train_symbols
from ecglm.types import LEADS

SUBSET = ("II", "V1", "V5")


def ecg_like(num_segments=8, num_samples=500, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples)
    x = 0.04 * np.cumsum(rng.normal(size=(num_segments, 12, num_samples)), axis=-1)
    return (x + 1.2 * np.exp(-(((t % 200) - 100) ** 2) / 60)).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    return {
        boundary: train_symbols(ecg_like(), 250, leads=SUBSET, target_rate=50, num_merges=60, boundary=boundary)
        for boundary in ("lead", "segment")
    }


def texts(representation, segment, rate=250):
    return [representation.added_tokens[i] for i in representation(segment, rate).token_ids]


def test_the_tokens_decode_to_the_shown_leads_at_the_shown_rate(trained):
    x = ecg_like(seed=4)[0]
    shown = reduce_rate(x[[LEADS.index(lead) for lead in SUBSET]], 250, 50)
    for r in trained.values():
        ids = [int(t.removeprefix("signal_")) for t in texts(r, x) if t.startswith("signal_")]
        symbols = np.frombuffer(r.tokenizer.decode_symbols(ids).encode(), np.uint8).reshape(shown.shape)
        z = (symbols - 97 + 0.5) / 26
        low, high = shown.min(), shown.max()
        assert np.abs(low + z * (high - low) - shown).max() <= (high - low) / 52 + 2e-6
        assert r(x, 250).tensor is None
        assert (r.placeholder, r.num_tokens, r.input_shape) == (None, None, None)


def test_each_lead_is_announced_by_its_name(trained):
    tokens = texts(trained["lead"], ecg_like(seed=2)[0])
    names = [t for t in tokens if t.startswith("<lead_")]
    assert names == ["<lead_II>", "<lead_V1>", "<lead_V5>"]
    assert tokens[0] == "<lead_II>"
    r, parts = trained["lead"], " ".join(tokens).split("<lead_")[1:]
    for part in parts:  # 500 samples at 250 Hz are 100 symbols at 50 Hz
        ids = [int(t.removeprefix("signal_")) for t in part.split()[1:]]
        assert len(r.tokenizer.decode_symbols(ids)) == 100
    assert not any(t.startswith("<lead_") for t in texts(trained["segment"], ecg_like()[0]))
    plain = SymbolsRepresentation(r.tokenizer, rate=50, leads=SUBSET, lead_tokens=False)
    assert texts(plain, ecg_like(seed=2)[0]) == [t for t in tokens if not t.startswith("<lead_")]


def test_only_reachable_ids_become_tokens(trained):
    tokens = trained["segment"].added_tokens
    assert tokens[:26] == tuple(f"signal_{i}" for i in range(97, 123))
    assert len(tokens) <= 26 + 60
    assert len(set(tokens)) == len(tokens)
    for x in ecg_like(seed=8):
        ids = trained["segment"](x, 250).token_ids
        assert ids.dtype == np.int64
        assert ids.min() >= 0
        assert ids.max() < len(tokens)


def test_a_legacy_vocabulary_order_is_kept():
    order = [256, 122, *[i for i in range(256) if i != 122]]
    tok = EcgByte([[97, 98]], legacy_vocab_order=order)
    tokens = SymbolsRepresentation(tok, rate=50).added_tokens
    assert tokens[:3] == ("signal_256", "signal_122", "signal_97")
    assert len(tokens) == 27


def test_d13_the_length_policy_is_one_and_balanced(trained, tmp_path):
    x = ecg_like(seed=6)[0]
    for boundary, r in trained.items():
        whole = texts(r, x)
        most = len(whole) // 2
        cut = SymbolsRepresentation(r.tokenizer, rate=50, leads=SUBSET, max_ecg_tokens=most, policy="balanced")
        first, again = cut(x, 250), cut(x, 250)
        np.testing.assert_array_equal(first.token_ids, again.token_ids)
        cut.save(tmp_path / boundary)
        loaded = build_representation(cut.config(), tmp_path / boundary)  # as at prediction time
        np.testing.assert_array_equal(loaded(x, 250).token_ids, first.token_ids)
        assert len(first.token_ids) <= most
        assert len(first.truncated) == 1
        assert f"{len(first.token_ids)} of {len(whole)}" in first.truncated[0]
        if boundary == "lead":
            kept = " ".join(cut.added_tokens[i] for i in first.token_ids).split("<lead_")[1:]
            full = " ".join(whole).split("<lead_")[1:]
            share = (most - 3) // 3
            for part, source in zip(kept, full, strict=True):  # every lead from its start, an equal share each
                assert part.split() == source.split()[: share + 1]


TAIL = {"max_ecg_tokens": 60, "policy": "tail"}


def spans_of(r, x, rate=250):
    """(lead, first, past-the-last sample) of each symbol token kept, from the texts of the tokens alone."""
    found, lead, at = [], -1, 0
    for text in texts(r, x, rate):
        if text.startswith("<lead_"):
            lead, at = lead + 1, 0
        else:
            size = len(r.tokenizer.decode_symbols([int(text.removeprefix("signal_"))]))
            found.append((lead, at, at + size))
            at += size
    return found


def test_d13_the_tail_policy_cuts_the_end_as_the_original_and_says_what_is_lost(trained):
    x = ecg_like(seed=6)[0]
    for boundary, r in trained.items():
        whole = r(x, 250).token_ids
        most = len(whole) // 2
        cut = SymbolsRepresentation(r.tokenizer, rate=50, leads=SUBSET, max_ecg_tokens=most, policy="tail")
        found = cut(x, 250)
        np.testing.assert_array_equal(found.token_ids, whole[:most])
        assert found.truncated == (f"ecg_tokens: {most} of {len(whole)} kept, policy tail",)
        assert found.shown["II"] == 1.0 and found.shown["V5"] == 0.0, boundary  # the last lead is not seen at all
        assert 0 < found.shown["V1"] < 1
        assert cut.config()["policy"] == "tail"
    whole = SymbolsRepresentation(r.tokenizer, rate=50, leads=SUBSET, max_ecg_tokens=len(r(x, 250).token_ids))
    assert whole(x, 250).shown == {} and whole(x, 250).truncated == ()


@pytest.mark.parametrize("policy", ["balanced", "tail"])
def test_d13_the_share_of_each_lead_that_is_shown(trained, policy):
    """Counted from the tokens themselves: samples they stand for, of the 100 that a lead has at 50 Hz."""
    r = trained["lead"]
    most = len(r(ecg_like(seed=6)[0], 250).token_ids) // 2
    cut = SymbolsRepresentation(r.tokenizer, rate=50, leads=SUBSET, max_ecg_tokens=most, policy=policy)
    for x in ecg_like(seed=9):
        found, shown = cut(x, 250), dict.fromkeys(SUBSET, 0)
        assert len(found.token_ids) <= most
        for lead, start, stop in spans_of(cut, x):
            shown[SUBSET[lead]] += stop - start
        assert found.shown == {lead: pytest.approx(n / 100, abs=1e-4) for lead, n in shown.items()}
        if policy == "balanced":
            assert min(found.shown.values()) > 0


def test_every_id_or_only_those_an_ecg_can_have(trained):
    r = trained["lead"]
    every = SymbolsRepresentation(r.tokenizer, rate=50, leads=SUBSET, compact_vocab=False)
    vocab_size = r.tokenizer.vocab_size
    assert every.added_tokens[:vocab_size] == tuple(f"signal_{i}" for i in range(vocab_size))
    assert set(r.added_tokens) < set(every.added_tokens)
    assert len(every.added_tokens) - len(r.added_tokens) >= 256 - 26
    x = ecg_like(seed=2)[0]
    assert texts(every, x) == texts(r, x)
    order = [256, 122, *[i for i in range(256) if i != 122]]
    legacy = SymbolsRepresentation(EcgByte([[97, 98]], legacy_vocab_order=order), compact_vocab=False)
    assert legacy.added_tokens == tuple(f"signal_{i}" for i in order)


def test_a_checkpoint_of_before_there_was_a_choice_of_vocabulary_is_read(trained, tmp_path):
    r = trained["lead"]
    r.save(tmp_path)
    config = {k: v for k, v in r.config().items() if k != "compact_vocab"}
    assert build_representation(config, tmp_path).added_tokens == r.added_tokens


@pytest.mark.parametrize("options", [{}, {"lead_tokens": False}, {"max_ecg_tokens": 60}, TAIL])
@pytest.mark.parametrize("rate", [50, None])
def test_a_tokens_weight_is_spread_over_the_samples_it_stands_for(trained, options, rate):
    """One token at a time, against its place among the texts; 5 samples of the segment are one symbol at 50 Hz."""
    x, factor = ecg_like(seed=3, num_samples=498)[0], 5 if rate else 1
    r = SymbolsRepresentation(trained["lead"].tokenizer, rate=rate, leads=SUBSET, **options)
    named = SymbolsRepresentation(
        trained["lead"].tokenizer, rate=rate, leads=SUBSET, **{**options, "lead_tokens": True}
    )
    names, spans = [t.startswith("<lead_") for t in texts(r, x)], iter(spans_of(named, x))
    assert any(names) is options.get("lead_tokens", True)
    for number, is_name in enumerate(names):
        weights = np.zeros(len(names))
        weights[number] = 0.7
        found = r.spread(weights, x, 250)
        expected = np.zeros((12, 498))
        if not is_name:
            lead, start, stop = next(spans)
            row = expected[LEADS.index(SUBSET[lead])]
            for symbol in range(start, stop):  # the last symbol of a lead may stand for fewer samples
                at = slice(symbol * factor, min((symbol + 1) * factor, 498))
                row[at] = 0.7 / (stop - start) / (at.stop - at.start)
            assert expected.sum() == pytest.approx(0.7)
        np.testing.assert_allclose(found, expected, atol=1e-12)
    many = np.random.default_rng(0).random((2, 3, len(names)))
    np.testing.assert_allclose(r.spread(many, x, 250)[1, 2], r.spread(many[1, 2], x, 250), atol=1e-12)


def test_d13_under_the_limit_nothing_is_cut_and_over_it_the_policy_error_says_so(trained):
    r, x = trained["lead"], ecg_like(seed=6)[0]
    num = len(r(x, 250).token_ids)
    fits = SymbolsRepresentation(r.tokenizer, rate=50, leads=SUBSET, max_ecg_tokens=num, policy="error")
    np.testing.assert_array_equal(fits(x, 250).token_ids, r(x, 250).token_ids)
    assert fits(x, 250).truncated == ()
    with pytest.raises(EcglmError, match=f"takes {num} tokens, {num - 1} are allowed"):
        SymbolsRepresentation(r.tokenizer, rate=50, leads=SUBSET, max_ecg_tokens=num - 1, policy="error")(x, 250)


def test_config_and_side_file_rebuild_it(trained, tmp_path):
    for boundary, r in trained.items():
        folder = tmp_path / boundary
        assert r.save(folder) == ["ecg_byte.json"]
        assert [p.name for p in folder.iterdir()] == ["ecg_byte.json"]
        config = json.loads(json.dumps(r.config()))
        again = build_representation(config, folder)
        assert again.config() == r.config()
        assert again.added_tokens == r.added_tokens
        x = ecg_like(seed=1)[0]
        np.testing.assert_array_equal(again(x, 250).token_ids, r(x, 250).token_ids)


def test_another_or_no_tokenizer_beside_the_config_is_an_error(trained, tmp_path):
    r = trained["lead"]
    with pytest.raises(EcglmError, match="folder"):
        build_representation(r.config())
    with pytest.raises(EcglmError, match="no such file"):
        build_representation(r.config(), tmp_path)
    trained["segment"].save(tmp_path)
    with pytest.raises(EcglmError, match="another tokenizer") as error:
        build_representation(r.config(), tmp_path)
    assert r.tokenizer.fingerprint in str(error.value)
    assert trained["segment"].tokenizer.fingerprint in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"polcy": "error"}, "did you mean 'policy'"),
        ({"rate": "50"}, "rate must be a whole number"),
        ({"policy": "cut"}, "policy"),
        ({"leads": "II"}, "leads must be a list"),
    ],
)
def test_a_config_with_unknown_keys_or_types_is_an_error(trained, tmp_path, change, message):
    trained["lead"].save(tmp_path)
    with pytest.raises(ConfigError, match=message):
        build_representation({**trained["lead"].config(), **change}, tmp_path)
    config = trained["lead"].config()
    del config["tokenizer"]
    with pytest.raises(ConfigError, match="'tokenizer' is missing"):
        build_representation(config, tmp_path)


def test_training_twice_gives_the_same_and_other_leads_another(trained):
    again = train_symbols(iter(ecg_like()), 250, leads=SUBSET, target_rate=50, num_merges=60)
    assert again.config() == trained["lead"].config()
    other = train_symbols(ecg_like(), 250, leads=("I", "V2", "V6"), target_rate=50, num_merges=60)
    assert other.tokenizer.fingerprint != again.tokenizer.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": 50, "leads": ("V9",)}, "no lead 'V9'"),
        ({"rate": 50, "policy": "balance"}, "did you mean 'balanced'"),
        ({"rate": 50, "max_ecg_tokens": 11}, "at least 12"),
    ],
)
def test_options_that_make_no_sense_are_errors(options, message):
    with pytest.raises(EcglmError, match=message):
        SymbolsRepresentation(EcgByte([]), **options)


@pytest.mark.parametrize(
    ("x", "rate", "message"),
    [
        (np.zeros((11, 500), np.float32), 250, "12, num_samples"),
        (np.zeros((3, 500), np.float32), 250, "12, num_samples"),
        (np.zeros((12, 500), np.float32), 120, "cannot reduce 120 Hz to 50 Hz"),
        (np.full((12, 500), np.nan, np.float32), 250, "NaN"),
        (np.full((12, 500), np.nan, np.float32), 50, "NaN"),
    ],
)
def test_segments_that_do_not_fit_are_errors(trained, x, rate, message):
    with pytest.raises(EcglmError, match=message):
        trained["lead"](x, rate)


def test_d17_percentile_mode_is_an_option_of_the_training_call():
    limits = {"p1": -0.5, "p99": 1.5}
    r = train_symbols(ecg_like(2), 250, target_rate=50, num_merges=5, normalise="percentile", percentiles=limits)
    assert (r.tokenizer.normalise, r.tokenizer.percentiles) == ("percentile", limits)
    flat = {r.added_tokens[i] for i in r(np.full((12, 500), 9.0, np.float32), 250).token_ids[1:40]}
    assert all(r.tokenizer.decode_symbols([int(t.removeprefix("signal_"))]).strip("z") == "" for t in flat)


@pytest.mark.realdata
def test_three_leads_at_50_hz_take_some_400_tokens(ptb_xl):
    raw = [np.fromfile(f, "<i2") for f in sorted((ptb_xl / "records100" / "00000").glob("*.dat"))[:200]]
    x = np.stack([r.reshape(-1, 12).T / 1000 for r in raw]).astype(np.float32)
    r = train_symbols(x[:150], 100, leads=SUBSET, target_rate=50, num_merges=500)
    assert 250 < np.median([len(r(s, 100).token_ids) for s in x[150:]]) < 500
