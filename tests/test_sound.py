"""Sound: recordings to samples and back, a run from end to end, and one line for every bad file."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from compressive_transformer import LanguageModel
from compressive_transformer import generate as generating
from compressive_transformer.checkpoint import load_run
from compressive_transformer.cli import main
from compressive_transformer.data import Corpus, embedded_recordings, join_folders, prepare
from compressive_transformer.data.audio import Notes, SampleTokenizer, read_recording, write_recording
from compressive_transformer.data.files import Source
from compressive_transformer.errors import UsageError
from compressive_transformer.evaluate import evaluate
from compressive_transformer.generate import choose, generate
from compressive_transformer.model import Decoder
from compressive_transformer.precision import autocast
from compressive_transformer.tasks import sound
from tiny import TINY, refused

RATE = 8000
MULAW, LINEAR = SampleTokenizer("mulaw", RATE), SampleTokenizer("linear", RATE)
Capture = pytest.CaptureFixture[str]


def tone(seconds: float = 0.2, rate: int = RATE, pitch: float = 440.0, loud: float = 0.3) -> np.ndarray:
    return loud * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)


def read(path: Path, rate: int = RATE) -> np.ndarray:
    """Samples in [-1, 1]."""
    pcm = b"".join(read_recording(Source(str(path), path, named=True), rate, Notes()))
    return np.frombuffer(pcm, "<i2") / 2**15


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of finished runs take no time."""
    monkeypatch.setattr(sound, "SAMPLE", {8: 100, 16: 20})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two speakers, three recordings each, in various formats."""
    for speaker, pitch in (("ann", 300.0), ("bob", 150.0)):
        place = tmp_path / "speech" / speaker
        place.mkdir(parents=True)
        for number, suffix in enumerate(("wav", "flac", "ogg")):
            x = tone(0.25, pitch=pitch * (1 + number / 10))
            soundfile.write(place / f"{number}_{speaker}_x.{suffix}", x, RATE)
    return tmp_path / "speech"


def train_sound(data: Path, out: Path, *arguments: str, bits: int = 8) -> None:
    shape = [f"--model.{n.replace('_', '-')}={v}" for n, v in TINY.items() if n != "compressed_memory"]
    kind = "mulaw" if bits == 8 else "linear"
    usual = ["--lanes=2", "--steps=12", "--precision=float32", f"--tokenizer={kind}-{RATE}"]
    usual.append("--model.memory=16")
    main(["train", "speech", "--data", str(data), "--out", str(out), *shape, *usual, *arguments])


# Reading and writing


def test_sixteen_bits_are_read_as_they_are(tmp_path: Path):
    pcm = np.random.default_rng(0).integers(-(2**15), 2**15, 5000).astype("<i2")
    for name in ("a.wav", "a.flac"):
        with write_recording(tmp_path / name, RATE) as add:
            add(pcm[:2000].tobytes())
            add(pcm[2000:].tobytes())
        assert (read(tmp_path / name) * 2**15 == pcm).all()


def test_channels_are_mixed_and_rates_converted(tmp_path: Path):
    left, right = tone(1.0, 48_000, 440.0), tone(1.0, 48_000, 880.0)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 48_000, subtype="FLOAT")
    found = read(tmp_path / "stereo.wav", 24_000)
    assert len(found) == pytest.approx(24_000, abs=2)
    expected = (tone(1.0, 24_000, 440.0) + tone(1.0, 24_000, 880.0)) / 2
    inner = slice(2000, -2000)  # the filter has nothing to look at beyond the ends
    assert np.abs(found[inner] - expected[inner]).max() < 1e-3


def test_memory_does_not_grow_with_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("compressive_transformer.data.audio.CHUNK", 1000)
    soundfile.write(tmp_path / "long.flac", tone(2.0, 16_000), 16_000)
    path = tmp_path / "long.flac"
    sizes = [len(part) for part in read_recording(Source(str(path), path, named=True), RATE, Notes())]
    assert sum(sizes) == pytest.approx(2 * 2 * RATE, abs=4)
    assert max(sizes) < 2 * 2000
    whole = read(path)
    monkeypatch.undo()
    assert (read(path) == whole).all()  # however it is chopped


def test_recordings_become_a_corpus(folder: Path):
    corpus = prepare([str(folder)], MULAW)
    assert corpus.num_documents == 6
    assert corpus.unit == "sample"
    assert corpus.num_tokens == pytest.approx(6 * 0.25 * RATE, abs=50)
    joined = join_folders(corpus)
    assert [Path(name).name for name in joined.names] == ["ann", "bob"]
    assert joined.num_bytes.sum() == corpus.num_bytes.sum()
    assert (np.asarray(joined.document(0)) == np.asarray(corpus.tokens[: corpus.starts[3]])).all()


def test_the_package_has_recordings():
    corpus = prepare(list(embedded_recordings()), MULAW)
    assert corpus.num_documents == 10
    assert corpus.num_tokens / RATE == pytest.approx(66.7, abs=0.1)


# Classical predictors


def corpus_of(x: np.ndarray, tokenizer: SampleTokenizer) -> Corpus:
    tokens = tokenizer.encode((x * 2**15).astype("<i2").tobytes())
    sizes = np.array([2 * len(tokens)])
    return Corpus(
        tokens=tokens, starts=np.array([0, len(tokens)]), names=("x",), num_bytes=sizes, tokenizer=tokenizer
    )


@pytest.mark.parametrize("tokenizer", [MULAW, LINEAR], ids=["mulaw", "linear"])
def test_classical_predictors_know_silence_tones_and_noise(tokenizer: SampleTokenizer):
    random = np.random.default_rng(0)
    noise = corpus_of(random.uniform(-1, 1, 20_000), tokenizer)
    silence, sine = corpus_of(np.zeros(20_000), tokenizer), corpus_of(tone(2.5), tokenizer)
    for bits in (sound.flac_bits, lambda corpus: sound.linear_bits(corpus, corpus)):
        assert bits(silence) < 0.2
        assert bits(silence) < bits(sine) < 0.75 * tokenizer.bits < bits(noise) < 1.05 * tokenizer.bits


@pytest.mark.parametrize("tokenizer", [MULAW, LINEAR])
def test_the_headers_of_flac_do_not_count(tokenizer: SampleTokenizer):
    """One recording as many short ones; each of its frames has a few bytes of its own, and no more."""
    noise = corpus_of(np.random.default_rng(0).uniform(-1, 1, 40_960), tokenizer)
    parts = replace(
        noise,
        starts=np.arange(41) * 1024,
        names=tuple(map(str, range(40))),
        num_bytes=np.full(40, 2048),
    )
    assert sound.flac_bits(noise) < sound.flac_bits(parts) < sound.flac_bits(noise) + 8 * 16 / 1024


def test_the_linear_predictor_gives_probabilities():
    """Of all levels that may follow they sum to one."""
    start = tone(0.05)
    nats = []
    for level in range(256):
        x = MULAW.encode((start * 2**15).astype("<i2").tobytes())
        tokens = np.append(x, level)
        sizes = {
            "starts": np.array([0, len(tokens)]),
            "names": ("x",),
            "num_bytes": np.array([2 * len(tokens)]),
        }
        corpus = Corpus(tokens=tokens, tokenizer=MULAW, **sizes)
        nats.append(math.log(2) * sound.linear_bits(corpus_of(tone(0.5), MULAW), corpus) * len(tokens))
    before = corpus_of(start, MULAW)
    known = math.log(2) * sound.linear_bits(corpus_of(tone(0.5), MULAW), before) * before.num_tokens
    assert sum(math.exp(known - x) for x in nats) == pytest.approx(1, abs=1e-6)


# A run from end to end


@pytest.mark.parametrize("core", ["compressive", "wavenet"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_run_from_end_to_end(folder: Path, tmp_path: Path, capsys: Capture, core: str, bits: int):
    run = tmp_path / "run"
    own = ["--model.core=wavenet", "--model.memory", "1", "2", "--model.compressed-memory=0"]
    settings = own if core == "wavenet" else ["--model.compressed-memory=8"]
    train_sound(folder, run, f"--model.sample-bits={bits}", *settings, bits=bits)
    said = capsys.readouterr().out
    assert "Bits per sample of the validation sound" in said
    assert "FLAC" in said
    assert {"sample.wav", "sample.png"} <= {path.name for path in run.iterdir()}
    assert soundfile.info(run / "sample.wav").samplerate == RATE
    main(["evaluate", str(run), str(folder), "--groups", "[0-9]_([a-z]+)_x", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [group["name"] for group in found["groups"]] == ["ann", "bob"]
    assert sum(g["num_samples"] for g in found["groups"]) == found["total"]["num_samples"]
    total = found["total"]
    assert total["nats_per_sample"] == pytest.approx(total["bits_per_sample"] * math.log(2))
    assert total["bits_per_sample"] == pytest.approx(total["nats"] / math.log(2) / total["num_samples"])
    main(["evaluate", str(run), str(folder / "ann"), "--by-position"])
    assert "bits/sample" in capsys.readouterr().out
    prompt = str(folder / "bob" / "1_bob_x.flac")
    out = tmp_path / "made.flac"
    main(["generate", str(run), "--prompt", prompt, "--seconds", "0.02", "--out", str(out)])
    assert f"{out}: 0.02 s at 8,000 samples a second" in capsys.readouterr().out
    assert soundfile.info(out).frames == 160
    assert out.with_suffix(".png").exists()
    main(["report", str(run)])
    assert "bits/sample" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*are clipped")  # so soon after its birth a model makes noise
@pytest.mark.parametrize("core", ["compressive", "wavenet"])
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_made_has_the_likelihood_that_it_was_made_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, core: str
):
    own = ["--model.core=wavenet", "--model.memory", "1", "4", "--model.compressed-memory=0"]
    settings = own if core == "wavenet" else []
    train_sound(folder, tmp_path / "run", f"--model.sample-bits={bits}", *settings, bits=bits)
    run, nats = load_run(tmp_path / "run"), []
    boundary = run.tokenizer.document_token

    def watch(logits: Tensor, **settings: Any) -> Tensor:
        while int(token := choose(logits, **settings)) == boundary:
            pass  # drawn anew: to ban it would make all others likelier
        nats.append(-float(logits.double().log_softmax(-1)[0, token]))
        return token

    monkeypatch.setattr(generating, "choose", watch)
    made = [int(token) for token in generate(run.model, torch.tensor([[boundary]]), length=60, seed=1)]
    with write_recording(tmp_path / "made.wav", RATE) as add:
        add(run.tokenizer.decode(made))
    scored = evaluate(run.model, prepare([str(tmp_path / "made.wav")], run.tokenizer), precision="float32")
    assert scored.total.num_tokens == 60
    assert scored.total.nats == pytest.approx(sum(nats), rel=1e-5)


def test_a_run_of_sound_is_resumed(folder: Path, tmp_path: Path):
    train_sound(folder, tmp_path / "run", "--steps=7")
    main(["train", "--resume", str(tmp_path / "run"), "--steps=12", "--accept-changes"])
    assert load_run(tmp_path / "run").tokenizer == MULAW


def test_recordings_shorter_than_a_segment_are_learnt_from(tmp_path: Path):
    place = tmp_path / "short"
    place.mkdir()
    for number in range(40):
        soundfile.write(place / f"{number}.wav", tone()[: 3 + number % 4], RATE)
    train_sound(place, tmp_path / "run")
    assert (tmp_path / "run" / "sample.wav").exists()


def test_a_recording_stays_until_another_is_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train_sound(folder, tmp_path / "run")
    before = folder / "ann" / "0_ann_x.wav"
    data = before.read_bytes()
    with pytest.raises(SystemExit):
        main(["generate", str(tmp_path / "run"), "--prompt", "nothing.wav", "--out", str(before)])
    assert before.read_bytes() == data
    made = ["generate", str(tmp_path / "run"), "--length", "2500"]
    main([*made, "--prompt", str(before), "--out", str(before)])  # read whole before it is replaced
    assert soundfile.info(before).frames == 2500
    calls = []

    def interrupted(*arguments: Any, **settings: Any) -> Tensor:
        calls.append(None)
        if len(calls) > 1200:
            raise KeyboardInterrupt
        return choose(*arguments, **settings)

    monkeypatch.setattr(generating, "choose", interrupted)
    with pytest.raises(SystemExit) as stop:
        main([*made, "--out", str(tmp_path / "part.flac")])
    assert stop.value.code == 130
    assert soundfile.info(tmp_path / "part.flac").frames == 1000  # what was made is not lost
    assert not list(tmp_path.glob(".*"))


# Bad input


@pytest.fixture
def bad(tmp_path: Path) -> dict[str, Path]:
    files = {name: tmp_path / f"{name}.wav" for name in ("text", "empty", "nothing", "nan")}
    files["text"].write_text("this is not sound")
    files["empty"].write_bytes(b"")
    soundfile.write(files["nothing"], np.zeros(0), RATE)
    x = tone()
    x[100] = np.nan
    soundfile.write(files["nan"], x, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "half.wav", tone(0.5), RATE)
    files["half"] = tmp_path / "half.wav"
    files["half"].write_bytes(files["half"].read_bytes()[:4022])
    files["raw"] = tmp_path / "raw.raw"
    files["raw"].write_bytes(b"x" * 1000)
    files["tiny"] = tmp_path / "tiny.wav"
    soundfile.write(files["tiny"], np.zeros(1), 48_000)
    soundfile.write(tmp_path / "whole.flac", np.random.default_rng(0).uniform(-1, 1, 50_000), RATE)
    files["cut"] = tmp_path / "cut.flac"
    whole = (tmp_path / "whole.flac").read_bytes()
    files["cut"].write_bytes(whole[: len(whole) // 2])
    (tmp_path / "whole.flac").unlink()
    whole_piped = bytearray(whole)
    whole_piped[21] &= 0xF0  # how many samples there are, 36 bits: unknown
    whole_piped[22:26] = bytes(4)
    files["piped"] = tmp_path / "piped.flac"
    files["piped"].write_bytes(whole_piped)
    return files


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("half", "is cut short: 4,022 of 8,044 bytes are there"),
        ("raw", "can't be read as audio"),
        ("tiny", "is a recording of no length"),
        ("text", "can't be read as audio"),
        ("empty", "can't be read as audio"),
        ("nothing", "is a recording of no length"),
        ("nan", "has samples that are no numbers"),
        ("cut", "is damaged or cut short"),
        ("piped", "does not tell its length, as if written to a pipe; encode it again"),
    ],
)
def test_a_bad_recording_is_refused_by_name(bad: dict[str, Path], name: str, message: str):
    with pytest.raises(UsageError, match=message) as error:
        prepare([str(bad[name])], MULAW)
    assert bad[name].name in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_recordings_among_good_ones_are_skipped_and_counted(bad: dict[str, Path], tmp_path: Path):
    place = tmp_path / "mixed"
    place.mkdir()
    for name, path in bad.items():
        if name == "raw":
            continue  # no recording, by its suffix
        path.rename(place / f"{name}{path.suffix}")
    soundfile.write(place / "a.wav", tone(), RATE)
    soundfile.write(place / "z.wav", tone(), RATE)
    (place / "notes.txt").write_text("about them")
    with pytest.warns(UserWarning, match="record") as caught:
        corpus = prepare([str(place)], MULAW)
    said = [str(warning.message) for warning in caught]
    assert any(line.startswith("skipped 1 file(s) that are no recordings") for line in said)
    assert any(line.startswith("skipped 8 of 10 recordings: ") for line in said)
    assert [Path(name).name for name in corpus.names] == ["a.wav", "z.wav"]
    with pytest.warns(UserWarning, match="record") as caught:
        prepare([str(place)], MULAW)
    assert "8 of 10 recordings are left out, as " in str(caught[-1].message)  # from the cache, too
    good = prepare([str(place / "a.wav"), str(place / "z.wav")], MULAW)
    assert (np.asarray(corpus.tokens[:]) == np.asarray(good.tokens[:])).all()


def test_only_bad_recordings_are_refused(bad: dict[str, Path], tmp_path: Path):
    place = tmp_path / "mixed"
    place.mkdir()
    bad["text"].rename(place / "text.wav")
    with pytest.raises(UsageError, match="can't be read as audio"):
        prepare([str(place)], MULAW)


def test_what_fails_while_a_recording_is_written_is_not_blamed_on_the_file(tmp_path: Path):
    with pytest.raises(UsageError, match=r"^no numbers$"), write_recording(tmp_path / "x.wav", RATE):
        raise UsageError("no numbers")


def test_unusual_recordings_are_told_of(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", np.stack([tone()] * 8, axis=1), RATE)
    soundfile.write(tmp_path / "b.wav", np.clip(tone(rate=22_050, loud=3.0), -1, 1), 22_050)
    with pytest.warns(UserWarning, match="record") as caught:
        prepare([str(tmp_path)], MULAW)
    said = " ".join(str(warning.message) for warning in caught)
    assert "recordings of 22,050 (as" in said
    assert "resampled to 8,000" in said
    assert "1 recording(s), such as" in said
    assert "more than two channels" in said
    assert "clipped" in said


def test_a_large_recording_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("compressive_transformer.data.units.UNIT", 5000)
    for name in ("a.wav", "a.wave"):  # an unusual suffix, but it was asked for by name
        soundfile.write(tmp_path / name, tone(2.0), RATE, format="WAV")
        assert prepare([str(tmp_path / name)], MULAW).num_tokens == 2 * RATE


def test_what_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(UsageError, match=r"pip install 'compressive-transformer\[audio\]'"):
        prepare([str(folder)], SampleTokenizer("mulaw", 12_345))


def test_a_wavenet_has_one_size():
    model = LanguageModel(core="wavenet", memory=4, compressed_memory=0)
    with pytest.raises(UsageError, match="a WaveNet has no memory of other sizes"):
        model.init_memory(1, memory=8)
    with pytest.raises(UsageError, match="a WaveNet has no attention"):
        model(torch.zeros(1, 4, dtype=torch.int64), with_attention=True)


def test_sixteen_bits_are_computed_in_float32():
    settings = {name: value for name, value in TINY.items() if name != "compressed_memory"}
    model = LanguageModel(vocab_size=65_537, sample_bits=16, compressed_memory=8, **settings)
    tokens = torch.randint(0, 65_536, (2, 30))
    expected = model(tokens, targets=tokens).losses
    model.eval()
    memory = model(tokens[:, :-1]).memory
    logits = Decoder(model, memory).read(tokens[:, -1])
    with autocast("cpu", "bfloat16"):
        assert model(tokens, targets=tokens).losses.equal(expected)
        assert Decoder(model, memory).read(tokens[:, -1]).equal(logits)


@pytest.mark.parametrize("suffix", ["mp3", "opus"])
def test_other_formats_are_read_whole(tmp_path: Path, suffix: str):
    path = tmp_path / f"x.{suffix}"
    if suffix == "opus":
        soundfile.write(path, tone(2.0), RATE, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, tone(2.0), RATE)
    corpus = prepare([str(path)], MULAW)
    assert corpus.num_tokens == soundfile.info(path).frames * RATE // soundfile.info(path).samplerate
    heard = np.frombuffer(MULAW.decode(corpus.tokens[:]), "<i2") / 2**15
    assert np.abs(heard).max() == pytest.approx(0.3, abs=0.05)


def test_a_placeholder_for_the_length_of_a_wav_is_none(tmp_path: Path):
    """As programs write it that don't know yet how long it gets."""
    soundfile.write(tmp_path / "x.wav", tone(), RATE)
    data = bytearray((tmp_path / "x.wav").read_bytes())
    for size in (0, 0x7FFFF024, 0x80000024, 0xFFFFFFFF):
        data[4:8] = size.to_bytes(4, "little")
        (tmp_path / f"{size}.wav").write_bytes(data)
        assert prepare([str(tmp_path / f"{size}.wav")], MULAW).num_tokens == len(tone())
    data[4:8] = (3 << 30).to_bytes(4, "little")
    (tmp_path / "large.wav").write_bytes(data)
    with pytest.raises(UsageError, match="is cut short"):
        prepare([str(tmp_path / "large.wav")], MULAW)


def test_speakers_are_documents_in_training_and_in_scoring(folder: Path, tmp_path: Path, capsys: Capture):
    train_sound(folder, tmp_path / "run", "--join-folders", "--no-reset-documents")
    capsys.readouterr()
    main(["evaluate", str(tmp_path / "run"), str(folder), "--join-folders", "--json"])
    names = [document["name"] for document in json.loads(capsys.readouterr().out)["documents"]]
    assert [Path(name).name for name in names] == ["ann", "bob"]


def test_mistakes_take_one_line(folder: Path, run: Path, tmp_path: Path, capsys: Capture):
    trained, wav = tmp_path / "run", str(folder / "ann" / "0_ann_x.wav")
    train_sound(folder, trained)
    data = ["train", "speech", "--data", str(folder)]
    of_sound, score = ["generate", str(trained)], ["evaluate", str(trained), wav]
    for arguments, message in (
        ([*data, "--separator", "x"], "recordings have no separators"),
        (["train", "speech", "--data", "hf:some/set"], "is a stream of text"),
        (["train", "speech", "--data", "-"], "not read from standard input"),
        ([*data, "--tokenizer", "mulaw-99"], "mulaw-RATE or linear-RATE"),
        ([*data, "--tokenizer", "mulaw-500000"], "500000 samples a second are not allowed"),
        ([*data, "--tokenizer", "linear-8000"], "sample_bits 8 has 257 tokens, and the tokenizer 65,537"),
        ([*data, "--tokenizer", "bytes"], "no text in"),
        (["train", "speech", "--data", str(Path(__file__).parent)], "no recording in"),
        ([*of_sound, "--length", "5", "--seconds", "1"], "give one of them"),
        ([*of_sound, "--length", "0"], "a recording of 0 samples is asked for"),
        ([*of_sound, "--out", str(tmp_path / "x.doc")], "use a name that ends in .wav, .flac"),
        ([*of_sound, "--prompt", "nothing.wav"], "takes a recording to go on from"),
        (["generate", str(run), "--seconds", "1"], "for models of sound"),
        ([*of_sound, "--seconds", "nan"], "--seconds nan is not allowed"),
        ([*of_sound, "--seconds", "-1"], "--seconds -1 is not allowed"),
        ([*of_sound, "--seconds", "1e308"], "--seconds 1e+308 is not allowed; use at most"),
        ([*of_sound, "--out", str(tmp_path / "none" / "x.wav")], "choose another --out"),
        ([*score, "--frequencies", "x.json"], "cannot read the tokenizer"),
        ([*score, "--groups", "(zoe)?"], "is not found in the name"),
        ([*score, "--groups", "(ann)", "--compressed-memory", "4", "8"], "leave out --by-position"),
        ([*score, "--groups", "("], "no regular expression"),
        ([*score, "--groups", "ann"], "one pair of brackets"),
        ([*score, "--groups", "(zoe)"], "is not found in the name"),
        (["evaluate", str(trained), str(Path(__file__))], "can't be read as audio"),
    ):
        assert message in refused(capsys, *arguments), arguments
