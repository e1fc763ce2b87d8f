// Elements from plain descriptions, changed in place when the description changes.
//
//   h("p", {class: "muted"}, "step ", 41)   ──► a description
//   patch(parent, [descriptions])            ──► the parent holds just those, moved and not rebuilt
//
// Words only ever become text nodes and attributes of ours: nothing here reads markup, so a run that
// is called "<script>" is a run with an odd name. A widget (a chart) is made once for its element,
// told of new data, and destroyed with it.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, props, ...children) {
  const kept = children.flat(Infinity).filter((child) => child !== null && child !== undefined
    && child !== false && child !== "");
  return {tag, props: props || {}, children: kept};
}

export function patch(parent, wanted) {
  const keyed = new Map();
  const others = [];
  for (const node of parent.childNodes) {
    if (node.key !== undefined) keyed.set(node.key, node);
    else others.push(node);
  }
  let place = parent.firstChild;
  for (const item of wanted) {
    const node = find(item, keyed, others) || make(item, parent);
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
    update(node, item);
  }
  while (place) {
    const next = place.nextSibling;
    remove(place);
    place = next;
  }
}

function find(item, keyed, others) {
  if (typeof item !== "object") return take(others, (node) => node.nodeType === Node.TEXT_NODE);
  const key = item.props.key;
  const fits = (node) => node.kind === item.tag;
  if (key === undefined) return take(others, fits);
  const node = keyed.get(key);
  keyed.delete(key);
  return node && fits(node) ? node : null;
}

function take(nodes, fits) {
  const i = nodes.findIndex(fits);
  return i < 0 ? null : nodes.splice(i, 1)[0];
}

function make(item, parent) {
  if (typeof item !== "object") return document.createTextNode("");
  const isSvg = item.tag === "svg" || parent.namespaceURI === SVG;
  const node = isSvg ? document.createElementNS(SVG, item.tag) : document.createElement(item.tag);
  node.kind = item.tag;
  node.key = item.props.key;
  node.said = {};
  return node;
}

function update(node, item) {
  if (typeof item !== "object") {
    const text = String(item);
    if (node.data !== text) node.data = text;
    return;
  }
  const {key, widget, data, ...props} = item.props;
  for (const name of Object.keys(node.said)) if (!(name in props)) set(node, name, undefined);
  for (const [name, value] of Object.entries(props)) {
    if (node.said[name] !== value) set(node, name, value);
  }
  node.said = props;
  if (!widget) {
    patch(node, item.children);
    return;
  }
  node.widget ||= widget(node);
  node.widget.update(data);
}

function set(node, name, value) {
  if (name.startsWith("on")) node[name] = value || null;
  else if (name === "style") {
    node.removeAttribute("style");
    for (const [rule, said] of Object.entries(value || {})) node.style.setProperty(rule, said);
  } else if (name === "value" || name === "checked" || name === "selected") node[name] = value;
  else if (value === undefined || value === false || value === null) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : String(value));
}

function remove(node) {
  if (node.nodeType === Node.ELEMENT_NODE) destroy(node);
  node.remove();
}

function destroy(node) {
  if (node.widget) node.widget.destroy();
  else for (const child of node.children) destroy(child);
}
