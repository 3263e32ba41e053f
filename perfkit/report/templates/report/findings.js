"use strict";
// Filter by text, verdict and metric, and sort by column: what a page without scripts shows as a plain table.
(function () {
  function value(row, column) {
    var cell = row.cells[column], text = cell ? cell.textContent.replace(/,/g, "") : "";
    var number = parseFloat(text.replace(/^[^0-9+\-\u221e]*/, "").replace("\u221e", "1e99"));
    return isNaN(number) ? text.trim() : text.trim().charAt(0) === "<" ? 0 : number;
  }
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") { return a - b; }
    return typeof a === "number" ? -1 : typeof b === "number" ? 1 : String(a).localeCompare(String(b));
  }
  function select(label, texts) {
    var box = document.createElement("select");
    box.setAttribute("aria-label", label);
    [label].concat(texts).forEach(function (text, number) { box.add(new Option(text, number ? text : "")); });
    return box;
  }
  function unique(texts) { return texts.filter(function (text, at) { return texts.indexOf(text) === at; }); }
  function equip(part) {
    var groups = Array.prototype.slice.call(part.querySelectorAll("tbody"));
    var rows = Array.prototype.slice.call(part.querySelectorAll("tbody tr:not(.pk-group)"));
    if (rows.length < 8) { return; }
    function metric(row) { return row.cells[0].textContent.replace(/[*0-9]*$/, "").trim(); }
    function verdict(row) {
      var cell = row.querySelector(".pk-v");
      return cell ? cell.lastChild.textContent.trim() : "";
    }
    var bar = document.createElement("div"), text = document.createElement("input"), found = document.createElement("output");
    bar.className = "pk-filter";
    bar.setAttribute("role", "search");
    text.type = "search";
    text.placeholder = "Filter services";
    text.setAttribute("aria-label", "Filter services");
    var verdicts = select("every verdict", unique(rows.map(verdict)).sort());
    var metrics = select("every metric", unique(rows.map(metric)));
    [text, verdicts, metrics, found].forEach(function (item) { bar.appendChild(item); });
    part.insertBefore(bar, part.firstChild);
    var folds = Array.prototype.slice.call(part.querySelectorAll("details"));
    var before = folds.map(function (fold) { return fold.open; });
    function filter() {
      var words = text.value.toLowerCase().split(/\s+/).filter(Boolean), shown = 0;
      groups.forEach(function (group) {
        var head = group.querySelector(".pk-group"), name = head ? head.textContent.toLowerCase() : "", any = false;
        var fits = words.every(function (word) { return name.indexOf(word) >= 0; });
        Array.prototype.forEach.call(group.rows, function (row) {
          if (row === head) { return; }
          var hit = fits && (!verdicts.value || verdict(row) === verdicts.value) && (!metrics.value || metric(row) === metrics.value);
          row.hidden = !hit;
          any = any || hit;
        });
        group.hidden = !any;
        shown += any ? 1 : 0;
      });
      var filtered = Boolean(words.length || verdicts.value || metrics.value);
      folds.forEach(function (fold, number) { fold.open = filtered ? Boolean(fold.querySelector("tbody:not([hidden])")) : before[number]; });
      found.textContent = filtered ? shown + (shown === 1 ? " service" : " services") : "";
    }
    text.addEventListener("input", filter);
    [verdicts, metrics].forEach(function (box) { box.addEventListener("change", filter); });
    part.querySelectorAll("table").forEach(function (table) {
      var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
      heads.forEach(function (head, column) {
        var button = document.createElement("button");
        button.type = "button";
        button.className = "pk-sort";
        while (head.firstChild) { button.appendChild(head.firstChild); }
        head.appendChild(button);
        button.addEventListener("click", function () {
          var down = head.getAttribute("aria-sort") !== "descending", sign = down ? -1 : 1;
          heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
          head.setAttribute("aria-sort", down ? "descending" : "ascending");
          var keyed = Array.prototype.map.call(table.tBodies, function (group) {
            var own = Array.prototype.filter.call(group.rows, function (row) { return !row.hidden && !row.classList.contains("pk-group"); });
            own.sort(function (a, b) { return sign * compare(value(a, column), value(b, column)); });
            own.forEach(function (row) { group.appendChild(row); });
            return { group: group, key: own.length ? value(own[0], column) : "" };
          });
          keyed.sort(function (a, b) { return sign * compare(a.key, b.key); });
          keyed.forEach(function (item) { table.appendChild(item.group); });
        });
      });
    });
  }
  Array.prototype.forEach.call(document.querySelectorAll(".pk-judged"), equip);
}());
