"""Headless Chromium over its own pipe (the Chrome DevTools protocol): opens pages and says what a reader meets there."""
import json
import os
import select
import shutil
import subprocess

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 120  # far beyond any answer: a browser that hangs is an error, a slow machine is none
FOUND = """(() => {
  const channels = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = c => { const [r, g, b] = channels(c).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                       return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor, v = channels(c);
                        if (v.length < 4 || v[3] > .5) return c; }
                        return 'rgb(255, 255, 255)'; };
  const contrast = e => { const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
                          return (a + .05) / (b + .05); };
  const seen = e => e.checkVisibility({contentVisibilityAuto: true}) && e.getClientRects().length;
  const scrolls = e => { for (; e && e !== document.body; e = e.parentElement)
                           if (getComputedStyle(e).overflowX !== 'visible') return true; return false; };
  const found = [], root = document.scrollingElement, width = document.documentElement.clientWidth;
  if (root.scrollWidth > width) {
    const wide = [...document.querySelectorAll('main *')].filter(e => seen(e) && !scrolls(e)
                                                                   && e.getBoundingClientRect().right > width + 1);
    found.push(`scrolls sideways, ${root.scrollWidth} in ${width} px: ${wide.at(-1)?.outerHTML.slice(0, 120)}`);
  }
  for (const image of document.images) {
    const name = image.outerHTML.slice(0, 80);
    if (!image.complete || !image.naturalWidth) found.push(`image not loaded: ${name}`);
    if (!image.alt.trim()) found.push(`image without alternative text: ${name}`);
  }
  const kinds = new Set();  // one of each kind: colours come from classes
  for (const e of document.querySelectorAll('main :is(p, li, a, code, pre, span, summary, h1, h2, h3, td, th), nav a')) {
    const kind = [e, e.parentElement, e.parentElement.parentElement].map(x => x.tagName + x.className).join('<');
    if (kinds.has(kind) || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !seen(e)) continue;
    kinds.add(kind);
    if (contrast(e) < 4.5) found.push(`pale (${contrast(e).toFixed(1)}): ${e.outerHTML.slice(0, 80)}`);
  }
  return found;
})()"""


class Browser:
    """One Chromium without a window; every request that leaves the machine fails and is reported."""

    def __init__(self, profile):
        here, theirs = os.pipe(), os.pipe()  # we write to the first, it writes to the second
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                   "--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}",
                   "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars", "about:blank"]
        moved = 'exec 3<&"$IN" 4>&"$OUT"; exec "$@"'  # Chromium reads from 3 and writes to 4
        self.process = subprocess.Popen(["bash", "-c", moved, "bash", *command], pass_fds=(here[0], theirs[1]),
                                        env=os.environ | {"IN": str(here[0]), "OUT": str(theirs[1])},
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(here[0]), os.close(theirs[1])
        self.to, self.come, self.rest, self.number, self.events = here[1], theirs[0], b"", 0, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")

    def message(self) -> dict:
        """The next message; an event is also kept."""
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.come], [], [], SECONDS)
            part = os.read(self.come, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError("Chromium ended" if ready else f"Chromium said nothing for {SECONDS} s")
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def ask(self, method: str, **params) -> dict:
        """Send a command, return its result."""
        self.number += 1
        address = {"sessionId": self.session} if hasattr(self, "session") else {}
        os.write(self.to, json.dumps({"id": self.number, "method": method, "params": params} | address).encode() + b"\0")
        while (answer := self.message()).get("id") != self.number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def complaints(self, url: str, views) -> list[str]:
        """What is wrong with a page in each view (width in pixels, "light" or "dark"); an empty list if nothing is."""
        self.events.clear()
        self.show(*views[0])
        self.ask("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.message()
        found = []
        for view in views:
            self.show(*view)
            found += [f"{view[0]} px, {view[1]}: {text}" for text in self.value(FOUND)]
        return found + [text for event in self.events if (text := self.noise(event))]

    def show(self, width: int, scheme: str) -> None:
        """Make the window as wide and the system's colours as given."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def value(self, expression: str):
        """The value of a JavaScript expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"]["value"]

    @staticmethod
    def noise(event: dict) -> str:
        """An event as a complaint: a request to a server, an error of the page; "" for all others."""
        kind, params = event["method"], event["params"]
        if kind == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:", "blob:")):
            return f"asks for {params['request']['url']}"
        if kind == "Log.entryAdded" and params["entry"]["level"] == "error":
            return f"error: {params['entry']['text']} {params['entry'].get('url', '')[:100]}"
        if kind == "Runtime.exceptionThrown":
            return f"error: {params['exceptionDetails']['text']}"
        return f"console.error: {params['args']}" if kind == "Runtime.consoleAPICalled" and params["type"] == "error" else ""

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait(SECONDS)
        os.close(self.to), os.close(self.come)
