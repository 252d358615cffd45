"""What clients of OpenAI Realtime may rely on."""

from __future__ import annotations

NAMES = "conversation.item.input_audio_transcription."


def check_items(events):
    """The promises of one connection."""
    committed, outcomes, sent = [], [], {}
    for event in events:
        item = event.get("item_id")
        match event["type"]:
            case "input_audio_buffer.committed":
                assert event["previous_item_id"] == (committed[-1] if committed else None)
                committed.append(item)
            case name if name == f"{NAMES}delta":
                assert event["delta"]
                assert item not in outcomes
                sent[item] = sent.get(item, "") + event["delta"]
            case name if name == f"{NAMES}completed":
                assert event["transcript"] == sent.get(item, "")
                outcomes.append(item)
    assert outcomes == committed
    assert len({event["event_id"] for event in events}) == len(events)
