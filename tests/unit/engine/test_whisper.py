"""The Whisper backend on the embedded model and on models with random weights."""

from __future__ import annotations

import concurrent.futures
import json
import math
from pathlib import Path

import attrs
import numpy as np
import pytest

from sttd.core.types import DecodeItem, DecodeOptions, Growing, JobClass
from sttd.engine.backend import Preset
from sttd.engine.memory import GpuMemory
from sttd.engine.presets import Machine, builtin_presets
from sttd.engine.store import ModelStore, embedded_model
from sttd.engine.whisper import WhisperBackend, detect_machine, is_out_of_memory
from sttd.engine.whisper_audio import FULL_WINDOW, content_frames, encode, log_mel, window_for
from sttd.engine.whisper_options import Settings
from sttd.engine.whisper_search import Search
from sttd.errors import ConfigError, DecodeError, ModelError
from tests.running import read_samples
from tests.unit.engine.random_whisper import SMALL, SMALL_EN, build

pytestmark = pytest.mark.model

DATA = Path(__file__).parents[2] / "data"
DEMO = builtin_presets()["demo"]
CPU = Machine(cores=2)


def backend(**changes):
    return WhisperBackend(machine=lambda: CPU, **changes)


def load(preset=DEMO, **options):
    preset = attrs.evolve(preset, options=options)
    return backend().load(preset, cpu_threads=0, num_workers=1)


@pytest.fixture(scope="module")
def demo():
    model = load()
    yield model
    model.close()


@pytest.fixture(scope="module")
def clips():
    """Name → (samples, text, start, end of the speech) of the project's own clips of one sentence."""
    found = {}
    for name in ("date", "light", "number", "question"):
        path = DATA / f"{name}.flac"
        utterance = json.loads(path.with_suffix(".json").read_text())["utterances"][0]
        samples = read_samples(path)
        samples.flags.writeable = False
        found[path.stem] = (samples, utterance["text"], utterance["start_s"], utterance["end_s"])
    return found


def item(samples, job_class=JobClass.FINAL, **options):
    return DecodeItem(samples=samples, options=DecodeOptions(**options), job_class=job_class)


def hear(model, samples, job_class=JobClass.FINAL, **options):
    [outcome] = model.decode([item(samples, job_class, **options)])
    assert not isinstance(outcome, DecodeError), outcome
    return outcome


# ------------------------------------------------------------ what is heard

# Features that differ in the last bit, or a batch of another shape, are rounded to int8 otherwise; by how much depends
# on the processor. Two kinds of kernels differed by up to 0.0005 on these clips; a text with timestamps, by 0.2 to 0.3.
ROUNDING = 0.01


@pytest.mark.parametrize("job_class", list(JobClass))
def test_every_class_of_decoding_hears_the_recordings(demo, clips, job_class):
    items = [item(samples, job_class) for samples, *_ in clips.values()]
    assert len({demo.batch_key(one) for one in items}) == 1
    heard = demo.decode(items)
    assert [outcome.text for outcome in heard] == [text for _, text, *_ in clips.values()]
    assert {outcome.language for outcome in heard} == {"en"}
    assert all(outcome.avg_logprob > -0.6 and outcome.no_speech_prob < 0.1 for outcome in heard)


def test_a_batch_hears_what_single_items_hear(demo, clips):
    together = demo.decode([item(samples) for samples, *_ in clips.values()])
    alone = [hear(demo, samples) for samples, *_ in clips.values()]
    assert [outcome.text for outcome in together] == [outcome.text for outcome in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=ROUNDING)


def test_the_same_as_faster_whisper_hears(clips):
    """Our own path through encode and generate against `WhisperModel.transcribe`, score for score."""
    from faster_whisper import WhisperModel

    reference = WhisperModel(str(embedded_model()), device="cpu", compute_type="int8", local_files_only=True)
    ours = load()
    for samples, *_ in clips.values():
        segments, info = reference.transcribe(
            samples, language="en", beam_size=5, without_timestamps=True, condition_on_previous_text=False
        )
        [segment] = list(segments)
        heard = hear(ours, samples, language="en")
        assert heard.text == segment.text.strip()
        assert heard.avg_logprob == pytest.approx(segment.avg_logprob, abs=ROUNDING)
        assert heard.no_speech_prob == pytest.approx(segment.no_speech_prob, abs=ROUNDING)
        assert heard.compression_ratio == pytest.approx(segment.compression_ratio, abs=0.1)
        assert heard.language == info.language
    ours.close()


def test_features_are_those_of_faster_whisper(clips):
    from faster_whisper.audio import pad_or_trim
    from faster_whisper.feature_extractor import FeatureExtractor

    extractor = FeatureExtractor()
    for samples, *_ in clips.values():
        theirs = extractor(samples)
        content = theirs.shape[-1] - 1
        expected = pad_or_trim(theirs[:, :content])
        # Not to the last bit: the matrix product is cut into blocks, and a library may sum in another order.
        np.testing.assert_allclose(log_mel(extractor, samples, window=FULL_WINDOW), expected, atol=1e-4)


def test_words_lie_where_they_were_said(demo, clips):
    items = [item(samples, words=True) for samples, *_ in clips.values()]
    for heard, (_, text, start_s, end_s) in zip(demo.decode(items), clips.values(), strict=True):
        words = heard.words
        assert "".join(word.word for word in words).split() == text.split()
        assert all(word.start_s <= word.end_s for word in words)
        assert [word.start_s for word in words] == sorted(word.start_s for word in words)
        assert abs(words[0].start_s - start_s) < 0.15
        assert abs(words[-1].end_s - end_s) < 0.3
        assert all(0 < word.probability <= 1 for word in words)
        [segment] = heard.segments
        assert (segment.start_s, segment.end_s) == (words[0].start_s, words[-1].end_s)


def test_a_file_window_is_cut_into_timed_segments(demo, clips):
    """Two sentences with a pause between them: two segments, each with its own times and words."""
    first, second = clips["light"], clips["question"]
    samples = np.concatenate([first[0], second[0]])
    offset_s = len(first[0]) / 16_000
    for words in (False, True):
        heard = hear(demo, samples, JobClass.FILE, words=words)
        assert [segment.text for segment in heard.segments] == [first[1], second[1]]
        assert abs(heard.segments[0].end_s - first[3]) < 0.3
        assert abs(heard.segments[1].start_s - offset_s - second[2]) < 0.3
        assert abs(heard.segments[1].end_s - offset_s - second[3]) < 0.3
    spoken = ["".join(word.word for word in segment.words).strip() for segment in heard.segments]
    assert spoken == [first[1], second[1]]


def test_a_prefix_is_kept_and_continued(demo, clips):
    samples, text, *_ = clips["light"]
    assert hear(demo, samples, prefix="Turn on").text == text
    forced = hear(demo, clips["date"][0], JobClass.INTERIM, prefix="Turn on the")
    assert forced.text.startswith("Turn on the")


@pytest.mark.parametrize("options", [{"language": "de"}, {"language": "en"}, {"task": "translate"}])
def test_a_model_of_one_language_takes_every_request_as_that_language(demo, clips, options):
    samples, text, *_ = clips["light"]
    heard = hear(demo, samples, **options)
    assert (heard.text, heard.language, heard.language_probability) == (text, "en", 1.0)


@pytest.mark.parametrize("length", [0, 1, 400, 16_000 * 31])
@pytest.mark.parametrize("job_class", [JobClass.FINAL, JobClass.INTERIM, JobClass.FILE])
def test_silence_of_any_length_is_decoded_without_an_error(demo, length, job_class):
    heard = hear(demo, np.zeros(length, np.float32), job_class, words=True)
    assert heard.no_speech_prob > 0.9
    assert math.isfinite(heard.avg_logprob)


# ------------------------------------------------------------ batches


def test_prompts_of_equal_length_share_a_key_and_others_do_not(demo, clips):
    samples = clips["light"][0]
    plain = demo.batch_key(item(samples))
    assert plain == demo.batch_key(item(clips["date"][0], JobClass.SPECULATIVE, language="en"))
    assert plain != demo.batch_key(item(samples, JobClass.INTERIM))
    assert plain != demo.batch_key(item(samples, JobClass.FILE))
    assert plain != demo.batch_key(item(samples, words=True))
    kitchen, light = (demo.batch_key(item(samples, prompt=prompt)) for prompt in ("the kitchen", "the light"))
    assert kitchen == light != plain
    assert demo.batch_key(item(samples, hotwords=("kitchen",))).context > 0
    lists = [demo.batch_key(item(samples, prompt=" ".join(["kitchen"] * count))) for count in (12, 13, 14, 15, 16)]
    assert lists[0] == lists[3] != lists[4], "longer prompts share a few lengths"
    many = [demo.batch_key(item(samples, hotwords=("kitchen",) * count)).context for count in (6, 7)]
    assert many[0] != many[1], "hotwords are not cut"


@pytest.mark.parametrize("words", [1, 40, 70, 500])
def test_prompts_of_any_length_can_be_decoded_together(demo, clips, words):
    prompts = [" ".join(["kitchen"] * words), " ".join(["light"] * words)]
    items = [item(clips["light"][0], prompt=prompt, language="en") for prompt in prompts]
    keys = {demo.batch_key(one) for one in items}
    assert len(keys) == 1
    assert keys.pop().context <= 129
    assert all(not isinstance(outcome, DecodeError) for outcome in demo.decode(items))


def test_hotwords_come_before_the_end_of_the_prompt(demo):
    codec = demo._decoder._codec
    context = codec.context("one " * 200 + "two", ("kitchen",))
    text = codec._tokenizer.decode(list(context[1:]))
    assert len(context) == 129
    assert text.strip().startswith("kitchen")
    assert text.endswith("two")


def test_one_bad_item_fails_alone(demo, clips):
    good = item(clips["light"][0], language="en")
    bad = item(np.array([[1.0, 2.0]], np.float32), language="en")
    outcomes = demo.decode([good, good, bad, good])
    assert [isinstance(outcome, DecodeError) for outcome in outcomes] == [False, False, True, False]
    assert outcomes[2].code == "decode_failed"
    assert [outcome.text for outcome in outcomes if not isinstance(outcome, DecodeError)] == [
        "Turn on the kitchen light."
    ] * 3


def test_want_of_memory_halves_the_batch_and_is_told_apart(clips, monkeypatch):
    model = load()
    decode, sizes = type(model._decoder).decode, []

    def short_of_memory(self, batch, **rest):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise RuntimeError("CUDA failed with error out of memory")
        return decode(self, batch, **rest)

    monkeypatch.setattr(type(model._decoder), "decode", short_of_memory)
    outcomes = model.decode([item(clips["light"][0])] * 4)
    assert sizes == [4, 2, 2]
    assert not any(isinstance(outcome, DecodeError) for outcome in outcomes)

    monkeypatch.setattr(type(model._decoder), "decode", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
    [outcome] = model.decode([item(clips["light"][0])])
    assert outcome.code == "out_of_memory"
    model.close()


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (RuntimeError("CUDA failed with error out of memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (RuntimeError("No such layer"), False),
    ],
)
def test_out_of_memory_is_known_by_its_text(error, answer):
    assert is_out_of_memory(error) is answer


def test_several_threads_decode_at_once(clips):
    model = backend().load(DEMO, cpu_threads=1, num_workers=2)
    assert model.workers == 2
    names = list(clips) * 3
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        heard = list(threads.map(lambda name: hear(model, clips[name][0]).text, names))
    assert heard == [clips[name][1] for name in names]
    model.close()


def test_batches_are_bounded_by_memory(demo, clips, monkeypatch):
    key = demo.batch_key(item(clips["light"][0]))
    assert 1 <= demo.max_batch(key) <= 8
    monkeypatch.setattr("sttd.engine.memory.available_bytes", lambda: 0)
    assert demo.max_batch(key) == 1


# ------------------------------------------------------------ windows


def test_short_windows_only_where_the_preset_allows_them(demo, clips):
    samples, text, *_ = clips["light"]
    interim = item(samples, JobClass.INTERIM)
    assert demo.batch_key(interim).window == FULL_WINDOW
    short = load(interim_windows=[1000, 2000])
    assert short.batch_key(interim).window == 1000
    assert short.batch_key(item(np.zeros(16_000 * 9, np.float32), JobClass.INTERIM)).window == 2000
    assert short.batch_key(item(samples)).window == FULL_WINDOW
    assert hear(short, samples, JobClass.INTERIM).text == text
    short.close()


def test_a_looping_short_window_is_decoded_again_in_full(clips, monkeypatch):
    model = load(interim_windows=[1000], compression_ratio_threshold=0.1)  # every text counts as a loop
    windows = []
    monkeypatch.setattr(
        "sttd.engine.whisper_decoding.log_mel",
        lambda *args, window, growing: (windows.append(window), log_mel(*args, window=window, growing=growing))[1],
    )
    assert hear(model, clips["light"][0], JobClass.INTERIM).text == clips["light"][1]
    assert windows == [1000, FULL_WINDOW]
    model.close()


def test_a_growing_recording_is_analysed_once(demo, monkeypatch):
    """Cut anywhere, the features are those of a computation from nothing, and hardly any frame is computed twice."""
    extractor = demo._decoder._extractor
    rng = np.random.default_rng(3)
    loudness = np.repeat(rng.uniform(0, 0.2, 200), 1600).astype(np.float32)
    samples = rng.standard_normal(len(loudness)).astype(np.float32) * loudness
    frames = []
    stft = extractor.stft
    monkeypatch.setattr(
        extractor,
        "stft",
        lambda array, *args, **rest: (frames.append(len(array) // 160), stft(array, *args, **rest))[1],
    )
    growing, end, cuts = Growing(), 150, 0
    while end < len(samples):
        found = log_mel(extractor, samples[:end], window=FULL_WINDOW, growing=growing)
        spent = len(frames)
        np.testing.assert_allclose(found, log_mel(extractor, samples[:end], window=FULL_WINDOW), atol=1e-4)
        del frames[spent:]
        end += int(rng.integers(1, 9000))
        cuts += 1
    assert sum(frames) < len(samples) // 160 + 10 * cuts


@pytest.mark.parametrize(
    ("samples", "window"), [(0, 1000), (16_000 * 7, 1000), (16_000 * 8, 1500), (16_000 * 18, 3000), (16_000 * 40, 3000)]
)
def test_the_window_leaves_room_for_silence(samples, window):
    assert window_for(samples, allowed=(1000, 1500, 2000)) == window
    assert content_frames(samples) <= window


def test_a_window_that_would_be_encoded_twice_is_refused(demo):
    with pytest.raises(AssertionError, match="encoded twice"):
        encode(demo._whisper, np.zeros((1, 80, 160), np.float32))


# ------------------------------------------------------------ the ladder


def test_a_rejected_final_climbs_the_temperatures_and_keeps_the_best(clips, monkeypatch):
    model = load(log_prob_threshold=10.0, no_speech_threshold=2.0, temperatures=[0.0, 0.5, 1.0])
    temperatures = []
    generate = Search._generate

    def spy(self, encoded, items, **rest):
        temperatures.append((rest["temperature"], len(items)))
        return generate(self, encoded, items, **rest)

    monkeypatch.setattr(Search, "_generate", spy)
    outcomes = model.decode([item(clips[name][0]) for name in ("light", "date")])
    assert temperatures == [(0.0, 2), (0.5, 2), (1.0, 2)]
    assert [outcome.text for outcome in outcomes] == [clips["light"][1], clips["date"][1]]
    model.close()


@attrs.define
class Waiters:
    """Remembers what it is told after how many calls; `left` are gone."""

    calls: list = attrs.field(factory=list)
    left: tuple = ()
    told: list = attrs.field(factory=list)
    rush: bool = False

    def tell(self, index, hypothesis):
        self.told.append((index, hypothesis, len(self.calls)))

    def gone(self, index):
        return index in self.left

    def hurry(self):
        return self.rush


def test_only_rejected_items_are_tried_again(clips, monkeypatch):
    model = load(no_speech_threshold=2.0)
    counts = []
    generate = Search._generate
    monkeypatch.setattr(
        Search,
        "_generate",
        lambda self, encoded, items, **rest: (counts.append(len(items)), generate(self, encoded, items, **rest))[1],
    )
    speech, silence = item(clips["light"][0]), item(np.zeros(16_000, np.float32))
    waiters = Waiters(counts)
    outcomes = model.decode([speech, silence, speech], waiters=waiters)
    assert counts[:2] == [3, 1]
    # Who needs no second try does not wait for one.
    assert waiters.told == [(0, outcomes[0], 1), (2, outcomes[2], 1)]
    assert outcomes[0].text == outcomes[2].text == clips["light"][1]
    assert (outcomes[0].temperature, outcomes[1].temperature > 0) == (0.0, True)
    model.close()


def test_a_file_is_left_between_two_tries_when_somebody_waits(clips, monkeypatch):
    model = load(log_prob_threshold=10.0, no_speech_threshold=2.0)  # rejects everything
    temperatures, scores = [], []
    generate = Search._generate

    def spy(self, encoded, items, **rest):
        [attempt] = generate(self, encoded, items, **rest)
        temperatures.append(rest["temperature"])
        scores.append(attempt.avg_logprob)
        return [attempt]

    monkeypatch.setattr(Search, "_generate", spy)
    window = item(clips["light"][0], JobClass.FILE)
    keys = [model.batch_key(window)]
    [left] = model.decode([window], waiters=Waiters(rush=True))
    keys.append(model.batch_key(left.item))
    [left] = model.decode([left.item], waiters=Waiters(rush=True))
    keys.append(model.batch_key(left.item))
    [heard] = model.decode([left.item], waiters=Waiters(rush=True))
    assert temperatures == [0.0, 0.4, 0.8]
    assert len(set(keys)) == 3  # what is tried at different temperatures shares no call
    assert heard.text == clips["light"][1]
    assert heard.avg_logprob == max(scores)  # the best of them: what is drawn at random may well beat the search
    [left] = model.decode([window], waiters=Waiters(rush=True))
    [heard] = model.decode([left.item], waiters=Waiters())
    assert temperatures[3:] == [0.0, 0.4, 0.8]
    model.close()


@pytest.fixture
def stops_early(demo, monkeypatch):
    """The model leaves a window behind its first segment, as real ones do at times."""
    generate = Search._generate
    begin = demo._decoder._codec.timestamp_begin

    def stop_early(self, encoded, items, **rest):
        attempts = generate(self, encoded, items, **rest)
        return [attrs.evolve(attempt, tokens=until_pair(attempt.tokens)) for attempt in attempts]

    def until_pair(tokens):
        pairs = [at for at in range(1, len(tokens) - 2) if tokens[at] >= begin and tokens[at + 1] >= begin]
        return tokens[: pairs[0] + 2] if pairs else tokens

    monkeypatch.setattr(Search, "_generate", stop_early)


@pytest.mark.usefixtures("stops_early")
@pytest.mark.parametrize("words", [False, True])
def test_a_segment_that_was_left_open_is_gone_on_with(demo, clips, words):
    """In the same call, or in one of its own when somebody waits: with the same outcome."""
    first, second = clips["light"], clips["question"]
    window = item(np.concatenate([first[0], second[0]]), JobClass.FILE, words=words)
    [whole] = demo.decode([window])
    assert [segment.text for segment in whole.segments] == [first[1], second[1]]
    offset_s = len(first[0]) / 16_000
    assert abs(whole.segments[1].start_s - offset_s - second[2]) < 0.3
    if words:
        assert abs(whole.segments[1].words[0].start_s - offset_s - second[2]) < 0.3
    [left] = demo.decode([window], waiters=Waiters(rush=True))
    assert len(left.item.samples) < len(window.samples)
    [again] = demo.decode([left.item], waiters=Waiters(rush=True))
    assert (again.text, again.segments) == (whole.text, whole.segments)
    [gone] = demo.decode([window], waiters=Waiters(left=(0,)))
    assert gone.text == first[1]


@pytest.mark.usefixtures("stops_early")
def test_windows_of_every_kind_share_a_call(demo, clips):
    """One whole, one left open, one left open for nobody: each has its own text, in its place."""
    pairs = [("date", "number"), ("light", "question"), ("question", "date")]
    windows = [item(np.concatenate([clips[one][0], clips[two][0]]), JobClass.FILE) for one, two in pairs]
    windows.insert(0, item(clips["light"][0], JobClass.FILE))
    expected = [clips["light"][1], *[f"{clips[one][1]} {clips[two][1]}" for one, two in pairs]]
    assert [heard.text for heard in demo.decode(windows, waiters=Waiters())] == expected
    expected[2] = clips["light"][1]
    assert [heard.text for heard in demo.decode(windows, waiters=Waiters(left=(2,)))] == expected
    results = demo.decode(windows, waiters=Waiters(rush=True, left=(2,)))
    assert [hasattr(result, "item") for result in results] == [False, True, False, True]
    rests = demo.decode([results[1].item, results[3].item], waiters=Waiters(rush=True))
    assert [rest.text for rest in rests] == [expected[1], expected[3]]


def test_nobody_is_tried_for_who_is_gone(clips, monkeypatch):
    model = load(log_prob_threshold=10.0, no_speech_threshold=2.0)  # rejects everything
    counts = []
    generate = Search._generate
    monkeypatch.setattr(
        Search,
        "_generate",
        lambda self, encoded, items, **rest: (counts.append(len(items)), generate(self, encoded, items, **rest))[1],
    )
    outcomes = model.decode([item(clips[name][0]) for name in ("light", "date")], waiters=Waiters(counts, left=(1,)))
    assert counts == [2, 1, 1]
    assert (outcomes[1].text, outcomes[1].temperature) == (clips["date"][1], 0.0)
    model.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_siz": 3}, "did you mean 'beam_size'"),
        ({"colour": 3}, "there are: beam_size"),
        ({"beam_size": "five"}, "takes a number"),
        ({"beam_size": 0}, "beams of at least 1"),
        ({"temperatures": ["hot"]}, "takes numbers"),
        ({"temperatures": []}, "at least one temperature"),
        ({"interim_windows": [160]}, "takes some of"),
    ],
)
def test_wrong_options_are_refused_with_a_hint(options, message):
    with pytest.raises(ConfigError, match=message):
        Settings.parse(options)
    with pytest.raises(ConfigError):
        backend().resolve(attrs.evolve(DEMO, options=options))


# ------------------------------------------------------------ loading


def test_what_a_loaded_model_says_of_itself(demo):
    assert (demo.device, demo.compute_type, demo.workers, demo.vram_bytes) == ("cpu", "int8_float32", 1, 0)
    assert demo.ram_bytes > embedded_model().joinpath("model.bin").stat().st_size / 2
    assert demo.park() is False


def test_a_model_that_is_absent_says_how_to_get_it(tmp_path):
    store = ModelStore(hub_dir=tmp_path, own_dir=tmp_path)
    base = builtin_presets()["base"]
    assert backend(store=store).locate(base) is None
    assert backend(store=store).describe(base).path is None
    with pytest.raises(ModelError, match="sttctl pull base") as caught:
        backend(store=store).load(base, cpu_threads=0, num_workers=1)
    assert caught.value.code == "model_not_local"


def test_a_broken_model_is_a_load_failure(tmp_path):
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        (tmp_path / name).write_bytes((embedded_model() / name).read_bytes())
    (tmp_path / "model.bin").write_bytes(b"not a model")
    with pytest.raises(ModelError) as caught:
        backend().load(Preset(name="broken", backend="whisper", model=str(tmp_path)), cpu_threads=1, num_workers=1)
    assert caught.value.code == "model_load_failed"
    assert "broken" in caught.value.message


def test_a_compute_type_that_the_machine_lacks_is_a_load_failure():
    with pytest.raises(ModelError) as caught:
        backend().load(attrs.evolve(DEMO, compute_type="float16"), cpu_threads=1, num_workers=1)
    assert caught.value.code == "model_load_failed"
    assert "float16" in caught.value.message


def test_a_model_larger_than_memory_is_refused_before_it_loads(monkeypatch):
    monkeypatch.setattr("sttd.engine.memory.available_bytes", lambda: 1_000_000)
    with pytest.raises(ModelError) as caught:
        load()
    assert caught.value.code == "out_of_memory"
    assert caught.value.data["compute_type"] == "int8"
    assert caught.value.data["needed_bytes"] > caught.value.data["available_bytes"] == 1_000_000


# ------------------------------------------------------------ other kinds of models


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    """99 languages, random weights."""
    path = build(tmp_path_factory.mktemp("multilingual"), SMALL)
    model = load(Preset(name="random", backend="whisper", model=str(path)), temperatures=[0.0], beam_size=2)
    yield model
    model.close()


@pytest.fixture(scope="module")
def english_only(tmp_path_factory):
    path = build(tmp_path_factory.mktemp("english"), SMALL_EN)
    model = load(Preset(name="random.en", backend="whisper", model=str(path)), temperatures=[0.0], beam_size=2)
    yield model
    model.close()


def test_the_language_is_detected_where_none_is_given(multilingual, clips):
    samples = clips["light"][0]
    detected, given = multilingual.decode([item(samples), item(samples, language="fr")])
    assert detected.language in multilingual._decoder._codec.languages
    assert 0 < detected.language_probability < 1
    assert (given.language, given.language_probability) == ("fr", 1.0)


def test_languages_may_differ_within_a_batch_and_words_are_aligned_in_each(multilingual, clips):
    samples = clips["question"][0]
    items = [item(samples, language=language, words=True) for language in ("de", "en", "ja", "de")]
    outcomes = multilingual.decode(items)
    assert [outcome.language for outcome in outcomes] == ["de", "en", "ja", "de"]
    assert outcomes[0].text == outcomes[3].text
    assert outcomes[0].words
    assert outcomes[0].words == outcomes[3].words


def test_an_unknown_language_fails_that_item_alone(multilingual, clips):
    samples = clips["question"][0]
    good, bad = multilingual.decode([item(samples, language="en"), item(samples, language="tlh")])
    assert not isinstance(good, DecodeError)
    assert (bad.code, "tlh" in bad.message) == ("bad_option", True)


def test_an_english_only_model_hears_english_whatever_is_asked(english_only, clips):
    heard = hear(english_only, clips["question"][0], language="fr", task="translate", words=True)
    assert (heard.language, heard.language_probability) == ("en", 1.0)


def test_output_is_bounded_by_the_length_of_the_audio(multilingual):
    """Random weights babble for ever: the bounds of the table must end them."""
    second = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    tokens = []
    decoder = multilingual._decoder
    for one in (item(second, JobClass.INTERIM, language="en"), item(second, language="en")):
        key = decoder.batch_key(one)
        encoded = encode(decoder._whisper, np.stack([log_mel(decoder._extractor, second, window=key.window)]))
        prompt = decoder._codec.prompt(one.options, language="en", timestamps=False)
        [attempt] = decoder._search._generate(encoded, [one], prompts=[prompt], group=key.group, temperature=0.0)
        tokens.append(len(attempt.tokens))
    assert 0 < tokens[0] <= 8 + 16
    assert 0 < tokens[1] <= 24 + 32


def test_timestamps_of_a_babbling_model_stay_within_the_audio(multilingual):
    samples = np.random.default_rng(1).standard_normal(16_000 * 5).astype(np.float32) * 0.1
    heard = hear(multilingual, samples, JobClass.FILE, language="en", words=True)
    assert heard.segments
    assert all(0 <= segment.start_s <= segment.end_s <= 5.0 for segment in heard.segments)


# ------------------------------------------------------------ second passes and GPUs


def test_a_window_that_was_left_open_is_gone_on_with(demo, clips, monkeypatch):
    """Whisper may close a sentence, open the next and stop; faster-whisper then seeks there, and so do we."""
    samples = np.concatenate([clips["light"][0], clips["question"][0]])
    generate, begin = Search._generate, demo._decoder._codec.timestamp_begin
    lengths = []

    def stop_early(self, encoded, items, **rest):
        attempts = generate(self, encoded, items, **rest)
        lengths.append(len(items[0].samples))
        if len(lengths) > 1:
            return attempts
        tokens = attempts[0].tokens
        pair = next(at for at in range(1, len(tokens)) if tokens[at] >= begin and tokens[at - 1] >= begin)
        return [attrs.evolve(attempts[0], tokens=tokens[: pair + 1])]

    monkeypatch.setattr(Search, "_generate", stop_early)
    heard = hear(demo, samples, JobClass.FILE, words=True)
    assert lengths[0] > lengths[1]
    assert heard.text == f"{clips['light'][1]} {clips['question'][1]}"
    offset_s = len(clips["light"][0]) / 16_000
    assert abs(heard.segments[-1].end_s - offset_s - clips["question"][3]) < 0.3
    assert [word.start_s for word in heard.words] == sorted(word.start_s for word in heard.words)


@attrs.define
class OnGpu:
    """What parking needs of CTranslate2, without a GPU."""

    model_is_loaded: bool = True
    busy: bool = False
    error: str = ""

    def unload_model(self, to_cpu=False):
        assert to_cpu
        self.model_is_loaded = self.busy

    def load_model(self):
        if self.error:
            raise RuntimeError(self.error)
        self.model_is_loaded = True


@pytest.fixture
def on_gpu():
    model = load()
    real, model._device = model._whisper, "cuda:0"
    model._whisper = OnGpu()
    yield model
    model._whisper, model._device = real, "cpu"
    model.close()


def test_a_gpu_model_moves_its_weights_to_main_memory_and_back(on_gpu):
    weights = on_gpu.vram_bytes
    assert (weights > 0, on_gpu.ram_bytes) == (True, 0)
    assert on_gpu.park()
    assert (on_gpu.vram_bytes, on_gpu.ram_bytes) == (0, weights)
    on_gpu.unpark()
    assert (on_gpu.vram_bytes, on_gpu.ram_bytes) == (weights, 0)


def test_parking_says_when_nothing_happened(on_gpu):
    """CTranslate2 silently keeps the weights while a call is active."""
    on_gpu._whisper.busy = True
    assert on_gpu.park() is False
    assert on_gpu.vram_bytes > 0


@pytest.mark.parametrize(
    ("error", "code"), [("CUDA failed with error out of memory", "out_of_memory"), ("gone", "model_load_failed")]
)
def test_a_parked_model_that_does_not_come_back_says_why(on_gpu, error, code):
    on_gpu.park()
    on_gpu._whisper.error = error
    with pytest.raises(ModelError) as caught:
        on_gpu.unpark()
    assert caught.value.code == code
    assert on_gpu.ram_bytes > 0


def test_a_gpu_batch_is_bounded_by_what_the_driver_says(on_gpu, clips, monkeypatch):
    key = on_gpu.batch_key(item(clips["light"][0]))
    known = GpuMemory(total_bytes=1 << 40, free_bytes=1 << 40)
    monkeypatch.setattr("sttd.engine.memory.gpu_memory", lambda index: known)
    assert on_gpu.max_batch(key) == 32
    monkeypatch.setattr("sttd.engine.memory.gpu_memory", lambda index: None)
    assert 1 <= on_gpu.max_batch(key) <= 8


def test_a_gpu_too_small_refuses_before_it_loads(monkeypatch):
    gpu = WhisperBackend(machine=lambda: Machine(cores=2, gpu_bytes=(1_000_000,)))
    monkeypatch.setattr("sttd.engine.memory.gpu_memory", lambda index: GpuMemory(total_bytes=10, free_bytes=5))
    with pytest.raises(ModelError, match="int8_float16 on cuda:0") as caught:
        gpu.load(DEMO, cpu_threads=0, num_workers=1)
    assert caught.value.data["available_bytes"] == 5


@pytest.mark.gpu
def test_a_gpu_hears_parks_and_comes_back(clips):
    model = WhisperBackend().load(attrs.evolve(DEMO, device="cuda"), cpu_threads=0, num_workers=1)
    assert model.device == "cuda:0"
    for _ in range(2):
        items = [item(samples, words=True) for samples, *_ in clips.values()]
        assert [outcome.text for outcome in model.decode(items)] == [text for _, text, *_ in clips.values()]
        assert model.park()
        model.unpark()
    model.close()


def test_the_machine_is_asked_for_gpus_only_where_there_is_a_device(monkeypatch):
    detect_machine.cache_clear()
    monkeypatch.setattr("pathlib.Path.glob", lambda *_: iter(["/dev/nvidia0"]))
    monkeypatch.setattr("ctranslate2.get_cuda_device_count", lambda: 1)
    monkeypatch.setattr("sttd.engine.memory.gpu_memory", lambda index: None)
    assert detect_machine().gpu_bytes == (0,)
    detect_machine.cache_clear()
    monkeypatch.undo()
    assert detect_machine().cores >= 1
    detect_machine.cache_clear()
