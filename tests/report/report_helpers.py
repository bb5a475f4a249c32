"""Reads a report as a browser would: elements with their attributes, texts, and the data of its charts."""

import base64
import json
from html.parser import HTMLParser

import cv2
import numpy as np


class Page(HTMLParser):
    """A parsed page: `elements` as (tag, attributes), `texts`, `scripts` by type, `rows` of its tables."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.scripts, self.rows = [], [], {}, []
        self._script = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self._script = dict(attributes).get("type", "text/javascript")
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif data.strip():
            self.texts.append(data.strip())
            if self.rows:
                self.rows[-1].append(data.strip())

    @property
    def text(self):
        return "\n".join(self.texts)

    @property
    def charts(self):
        """Curves by the title of their chart: points by the name of the curve."""
        charts = json.loads(self.scripts["application/json"])
        return {chart["title"]: {c["name"]: c["points"] for c in chart["curves"]} for chart in charts}

    def images(self, alt):
        """Decoded pictures (H, W, 3), RGB, of a text for those who don't see them."""
        return [decoded(a["src"]) for tag, a in self.elements if tag == "img" and a["alt"] == alt]


def decoded(uri):
    kind, _, data = uri.partition(";base64,")
    assert kind in ("data:image/jpeg", "data:image/png")
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
