// Renews what is live on a page when the console says that something is different. Without it every page still works.
"use strict";

(() => {
  const lost = document.getElementById("lost");
  let isUnderWay = false;
  let isWanted = false;

  // Takes over what people have opened, scrolled and put the focus on.
  const renew = (old, fresh) => {
    for (const details of old.querySelectorAll("details[id]")) {
      const other = fresh.querySelector(`#${CSS.escape(details.id)}`);
      if (other) other.open = details.open;
    }
    if (old.innerHTML === fresh.innerHTML) return;
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const scrolled = [...old.querySelectorAll(".scroll[id]")].map((of) => [of.id, of.scrollLeft, of.scrollTop]);
    const path = focused && focused.id ? `#${CSS.escape(focused.id)}` : focused && focused.href ? `a[href="${CSS.escape(focused.getAttribute("href"))}"]` : null;
    old.replaceChildren(...fresh.childNodes);
    for (const [id, left, top] of scrolled) {
      const of = document.getElementById(id);
      if (of) of.scrollTo(left, top);
    }
    const again = path && old.querySelector(path);
    if (again) again.focus({ preventScroll: true });
  };

  const load = async () => {
    if (isUnderWay || document.hidden) {
      isWanted = true;
      return;
    }
    isUnderWay = true;
    isWanted = false;
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      if (!answer.ok) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of document.querySelectorAll("[data-live]")) {
        const fresh = page.getElementById(old.id);
        if (fresh) renew(old, fresh);
      }
      lost.hidden = true;
      // A section that was not there before, or is gone: the page is another one.
      const ids = (of) => [...of.querySelectorAll("[data-live]")].map((live) => live.id).join(" ");
      if (ids(document) !== ids(page)) renew(document.getElementById("main"), page.getElementById("main"));
    } catch {
      lost.hidden = false;
    } finally {
      isUnderWay = false;
      if (isWanted) load();
    }
  };

  const news = new EventSource("/events");
  let isFirst = true;
  news.onmessage = () => {
    // The first says only that somebody listens; a later first one comes after the connection was lost.
    if (isFirst) isFirst = false;
    else load();
  };
  news.onerror = () => { lost.hidden = false; };
  news.onopen = () => { lost.hidden = true; };
  document.addEventListener("visibilitychange", () => { if (isWanted && !document.hidden) load(); });
})();
