"""Pages and charts, parsed for tests."""

from html.parser import HTMLParser

from se_jax.report import rendering


class Page(HTMLParser):
    """Collects tags, addresses, texts and headings, and checks that the tags are closed in order."""

    VOID = {"meta", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.texts, self.headings, self.open = [], [], [], [], []
        self.feed(text)
        assert not self.open
        self.text = " ".join(self.texts)

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for key, value in attributes if key in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        text = " ".join(data.split())
        if text and self.open[-1] != "style":
            self.texts.append(text)
            if self.open[-1] in ("h2", "summary"):
                self.headings.append(text)


def drawn(kind: str, chart) -> str:
    """The markup of a chart; kind: a macro of the charts' template."""
    macros = rendering.environment.get_template("charts.html.jinja").module
    return str(getattr(macros, kind)(chart)).strip()
