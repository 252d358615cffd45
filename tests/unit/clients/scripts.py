"""What a scripted daemon says to a session, whether that blocks or runs on Trio."""


def dictation(daemon):
    daemon.greet()
    daemon.hear_until_stop()
    daemon.say("speech_start", utterance=1, at_s=0.1)
    daemon.final(1, "hello")
    daemon.stopped()


def first_half(daemon):
    daemon.greet(resume_token="t1")
    daemon.hear()
    daemon.say("speech_start", utterance=1, at_s=0.1, event_seq=1)
    daemon.cut()


def second_half(daemon):
    daemon.greet_again(token="t1", last_seq=1, position_s=0.0005)
    while len(daemon.audio) < 16:
        daemon.hear()
    daemon.say("speech_start", utterance=1, at_s=0.1, event_seq=1)  # it was heard
    daemon.final(1, "hello", event_seq=2)
    daemon.hear_until_stop()
    daemon.say("stopped", audio_s=1.0, utterances=1, dropped_s=0.0, event_seq=3)


def gone(daemon):
    daemon.say("hello", server="fake/1", protocol=1, encodings=["pcm_s16le"], presets=["fake"])
    daemon.hear()
    daemon.say("error", code="not_found", message="start anew", retryable=False, fatal=False)


def older(daemon):
    daemon.say("hello", server="fake/1", protocol=1, encodings=["pcm_s16le"], presets=["fake"])
    daemon.hear()
    daemon.say("error", code="bad_option", message="`resumable`?", fatal=False, data={"field": "resumable"})
    daemon.hear()
    daemon.say("started", session="s1", sample_rate=16000)
    daemon.hear_until_stop()
    daemon.stopped()
