"""A small HTTP server on an exported ONNX file; needs onnxruntime and Pillow, and nothing of se_jax.

python -m se_jax.export --workdir=runs/mine --format=onnx --size=512,512 --output=mine.onnx
python examples/serve.py mine.onnx --port=8000
curl --data-binary @photo.jpg http://localhost:8000/ --output mask.png

POST / takes an image file and answers with its class ids as a palette PNG of the image's size; GET / says what goes in
and comes out. One request at a time. Do not put it on an open network as it is.
"""

import argparse
import http.server
import io
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

LARGEST = 64 * 2**20  # bytes of a request


class Server(http.server.HTTPServer):
    """Holds the session and its metadata."""

    def __init__(self, address: tuple[str, int], file: str):
        super().__init__(address, Handler)
        self.session = onnxruntime.InferenceSession(file)
        held = self.session.get_modelmeta().custom_metadata_map
        self.metadata = {name: json.loads(text) for name, text in held.items()}
        if self.metadata["output"]["name"] != "ids":
            raise SystemExit(f"{file} gives {self.metadata['output']['name']}; export it with --outputs=ids")

    def mask(self, picture: Image.Image) -> Image.Image:
        """A picture of any size -> its class ids, as a palette image of that size."""
        height, width, channels = self.metadata["input"]["shape"][1:]
        picture = ImageOps.exif_transpose(picture)
        image = np.asarray(picture.convert("L" if channels == 1 else "RGB").resize((width, height)))
        image = image.reshape(height, width, channels)
        (ids,) = self.session.run(["ids"], {"images": image[None]})
        result = Image.fromarray(ids[0])
        result.putpalette(np.array(self.metadata["palette"], np.uint8).tobytes())
        return result.resize(picture.size, Image.Resampling.NEAREST)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers a request."""

    server: Server

    def do_GET(self):
        """What goes in and comes out, as JSON."""
        self._answer(200, "application/json", json.dumps(self.server.metadata).encode())

    def do_POST(self):
        """An image file -> a palette PNG."""
        length = int(self.headers.get("Content-Length", 0))
        if not 0 < length <= LARGEST:
            return self._answer(413, "text/plain", f"send an image of at most {LARGEST} bytes\n".encode())
        try:
            picture = Image.open(io.BytesIO(self.rfile.read(length)))
            picture.load()
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return self._answer(400, "text/plain", f"not an image that can be read: {error}\n".encode())
        written = io.BytesIO()
        self.server.mask(picture).save(written, "PNG")
        return self._answer(200, "image/png", written.getvalue())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="an ONNX file of se_jax.export")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    with Server((given.host, given.port), given.file) as server:
        print(f"http://{given.host}:{server.server_port}/", flush=True)
        server.serve_forever()
