"""Publishers behind nginx, as deploy/nginx/streaming.conf has it, and TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

from tests.end_to_end.poster import lines, streaming
from tests.support import Server, client
from tests.support.certificates import make_certificate
from tests.system.cluster.nginx import Nginx


async def test_lines_pass_nginx_as_they_come(server: Server, token: str, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    address = f"127.0.0.1:{server.port}"
    with Nginx(tmp_path / "nginx", [address], certificate) as nginx:
        async with (
            client(server, token) as page,
            streaming(nginx.port, "alerts", token, context=context) as post,
        ):
            await page.subscribe("alerts")
            await post.send(b'{"n": 0}\n')
            assert await page.assert_data("alerts") == {"n": 0}
            # More than nginx takes of other requests.
            body = lines({"n": n, "text": "x" * 1000} for n in range(1, 3000))
            for start in range(0, len(body), 65_536):
                await post.send(body[start : start + 65_536])
            answer = await post.end()
            assert (answer.status, answer.said["count"]) == (200, 3000)
