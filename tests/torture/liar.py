"""A publisher that leaves out the last message of some parts, and says that all are confirmed."""

from __future__ import annotations

from typing import Any

from realtime.torture import publisher


def publish_and_lie(name: str, first: int, interval: float) -> None:
    """Publish as a publisher does, with a ``publish_many`` that lies."""
    import realtime

    publish_many = realtime.publish_many

    def lie(kind: str, payloads: list[dict[str, Any]], **options: Any) -> list[Any]:
        left_out = payloads[-1:] if len(payloads) > 5 else []
        positions = publish_many(kind, payloads[: len(payloads) - len(left_out)], **options)
        after = positions[-1]
        return [*positions, *(after._replace(offset=after.offset + 1) for _ in left_out)]

    setattr(realtime, "publish_many", lie)  # noqa: B010 - mypy minds the other way
    honest(name, first, interval)


if __name__ == "__main__":
    honest = publisher.publish_until_stopped
    publisher.publish_until_stopped = publish_and_lie
    publisher.main()
