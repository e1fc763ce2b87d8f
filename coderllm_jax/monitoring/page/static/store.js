// What the server has said so far, and the one stream on which it says more.
//
//   store.overview   {time, runs, traffic, machine, quality, alerts, rules, problems}
//   store.series     id → {revision, columns: {loss: {step: [], time: [], value: []}}}
//   store.follow({"lora-1f0c": ["loss"]}, 1200)
//
// A stream that breaks is opened again by the browser itself, with the id of the last event; the
// server goes on from there, or sends everything anew and says so.

// A browser holds six connections to one host, and every stream takes one: a page that nobody sees
// lets go of its own and asks now and then instead.

const REOPEN_MS = 2000;
const REST_AFTER_MS = 20_000;
const REST_MS = 15_000;

export class Store {
  constructor(onChange) {
    this.onChange = onChange;
    this.overview = null;
    this.series = new Map();
    this.state = "connecting";
    this.clockSkew = 0;
    this.followed = "";
  }

  get now() {
    return Date.now() / 1000 + this.clockSkew;
  }

  async start() {
    addEventListener("pagehide", () => this.source?.close());
    addEventListener("pageshow", (event) => event.persisted && this.open());
    document.addEventListener("visibilitychange", () => this.attend(!document.hidden));
    await this.look();
  }

  // Whether somebody sees the page.
  attend(isSeen) {
    clearTimeout(this.resting);
    if (!isSeen) this.resting = setTimeout(() => this.rest(), REST_AFTER_MS);
    else if (this.isResting) this.open();
  }

  rest() {
    this.isResting = true;
    this.source?.close();
    this.look();
    this.resting = setTimeout(() => this.rest(), REST_MS);
  }

  async look() {
    try {
      const answer = await fetch("api/overview");
      if (answer.ok) this.hear(await answer.json());
      else this.state = answer.status === 401 ? "locked" : "away";
    } catch {
      this.state = "away";
    }
    // Without a first look there is nothing to follow, and no stream that would try again.
    if (!this.overview) this.reopening = setTimeout(() => this.look(), REOPEN_MS);
    this.onChange();
  }

  follow(want, points) {
    this.want = want;
    this.points = points;
    const address = `events?points=${points}&want=${encodeURIComponent(JSON.stringify(want))}`;
    if (address === this.followed) return;
    this.followed = address;
    for (const id of this.series.keys()) if (!(id in want)) this.series.delete(id);
    if (!this.isResting) this.open();
  }

  open() {
    clearTimeout(this.reopening);
    clearTimeout(this.resting);
    this.isResting = false;
    if (this.source) this.source.close();
    const source = this.source = new EventSource(this.followed);
    source.onopen = () => this.become("live");
    source.onerror = () => {
      this.become("away");
      // A refusal ends a stream for good; a broken connection does not.
      if (source.readyState === EventSource.CLOSED) {
        this.reopening = setTimeout(() => this.open(), REOPEN_MS);
      }
    };
    source.addEventListener("overview", (event) => {
      this.hear(JSON.parse(event.data));
      this.onChange();
    });
    source.addEventListener("series", (event) => {
      for (const piece of JSON.parse(event.data)) this.add(piece);
      this.onChange();
    });
  }

  become(state) {
    this.state = state;
    this.onChange();
  }

  hear(said) {
    this.overview = {...this.overview, ...said};
    this.clockSkew = said.time - Date.now() / 1000;
  }

  add({id, revision, is_new: isNew, series}) {
    const known = this.series.get(id);
    const columns = isNew || !known ? {} : known.columns;
    let longest = 0;
    for (const [name, more] of Object.entries(series)) {
      const column = columns[name] ||= {step: [], time: [], value: []};
      // The last point may be told again, when it was not final.
      while (more.step.length && column.step.length && column.step.at(-1) >= more.step[0]) {
        for (const part of Object.values(column)) part.pop();
      }
      for (const part of ["step", "time", "value"]) {
        for (const value of more[part]) column[part].push(value);
      }
      longest = Math.max(longest, column.step.length);
    }
    this.series.set(id, {revision, columns, version: (known?.version || 0) + 1});
    // Live points come unthinned; when there are too many, all are asked for again, thinned.
    if (!isNew && longest > 3 * this.points) this.open();
  }

  // Between these steps every point is asked for, as far as a chart can show them: a long run comes
  // thinned. The points that are there stay until those have come.
  async refine(id, names, [first, last]) {
    const known = this.series.get(id);
    if (!known) return;
    const query = new URLSearchParams({id, since: first - 1, until: last, points: this.points});
    for (const name of names) query.append("name", name);
    try {
      const answer = await fetch(`api/series?${query}`);
      const found = await answer.json();
      // Meanwhile everything may have come anew, of another file.
      if (!answer.ok || found.revision !== known.revision || this.series.get(id)?.columns !== known.columns) return;
      for (const name of names) if (name in known.columns) splice(known.columns[name], found[name], first, last);
      this.series.set(id, {...known, version: known.version + 0.5});
      this.onChange();
    } catch {
      // Thinned points are better than none.
    }
  }

  column(id, name) {
    return this.series.get(id)?.columns[name] || {step: [], time: [], value: []};
  }
}

function splice(column, finer, first, last) {
  const before = column.step.findIndex((step) => step >= first);
  const start = before < 0 ? column.step.length : before;
  const after = column.step.findIndex((step) => step > last);
  const end = after < 0 ? column.step.length : after;
  for (const part of ["step", "time", "value"]) {
    column[part] = [...column[part].slice(0, start), ...finer[part], ...column[part].slice(end)];
  }
}
