"use strict";
(function () {
  var config = {
    responsive: true,
    displaylogo: false,
    showTips: false,
    typesetMath: false,
    plotlyServerURL: "",
    modeBarButtons: [["toImage"]],
    toImageButtonOptions: { format: "svg", filename: "perfkit-chart" }
  };
  function each(selector, use) { Array.prototype.forEach.call(document.querySelectorAll(selector), use); }

  // Charts: a picture until plotly.js, which lies compressed in this page, has drawn over it.
  var library = null;
  function unpacked() {
    if (library === null) {
      var packed = atob(document.getElementById("pk-plotly").textContent);
      var bytes = new Uint8Array(packed.length);
      for (var i = 0; i < packed.length; i += 1) { bytes[i] = packed.charCodeAt(i); }
      var stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      library = new Response(stream).text().then(function (text) {
        var script = document.createElement("script");
        script.textContent = text;
        document.head.appendChild(script);
      });
    }
    return library;
  }
  function draw(figure) {
    var plot = figure.querySelector(".pk-plot"), choice = figure.querySelector("select");
    return Promise.resolve().then(unpacked).then(function () {
      var chart = JSON.parse(figure.querySelector("script").textContent);
      // Dragging zooms; where fingers scroll the page, it does not.
      if (window.matchMedia("(pointer: coarse)").matches) { chart.layout.dragmode = false; }
      return Plotly.newPlot(plot, chart.data, chart.layout, config);
    }).then(function () {
      figure.classList.add("pk-live");
      if (choice) {
        choice.onchange = function () { Plotly.restyle.apply(null, [plot].concat(JSON.parse(choice.value))); };
        if (choice.selectedIndex > 0) { choice.onchange(); }
      }
    }).catch(function () { figure.classList.add("pk-still"); });
  }
  var queue = Promise.resolve(), left = 0;
  function drawSoon(figure) {
    // One after the other, so that the page answers its reader meanwhile.
    queue = queue.then(function () { return draw(figure); }).then(function () {
      left -= 1;
      if (left === 0) { document.documentElement.dataset.drawn = "all"; }
      return new Promise(function (next) { setTimeout(next, 0); });
    });
  }
  var near = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) {
      if (entry.isIntersecting) { near.unobserve(entry.target); drawSoon(entry.target); }
    });
  }, { rootMargin: "500px 0px" });
  each(".pk-chart", function (figure) { left += 1; near.observe(figure); });
  if (left === 0) { document.documentElement.dataset.drawn = "all"; }

  // Contents: the section that is read is marked.
  var links = {}, headings = [], marked = null;
  each(".pk-contents a", function (link) { links[decodeURIComponent(link.hash.slice(1))] = link; });
  each("main h2", function (heading) { if (links[heading.id]) { headings.push(heading); } });
  function mark() {
    var current = null, end = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 2;
    headings.forEach(function (heading) {
      if (heading.getBoundingClientRect().top < window.innerHeight * 0.3 || end) { current = links[heading.id]; }
    });
    if (current === marked) { return; }
    if (marked) { marked.removeAttribute("aria-current"); }
    if (current) { current.setAttribute("aria-current", "location"); }
    var bar = document.querySelector(".pk-contents"), at = current || { offsetLeft: 0, offsetTop: 0 };
    bar.scrollTo({ left: at.offsetLeft - bar.clientWidth / 3, top: at.offsetTop - bar.clientHeight / 2 });
    marked = current;
  }
  window.addEventListener("scroll", mark, { passive: true });
  window.addEventListener("resize", mark, { passive: true });
  mark();

  // Paper shows what is folded.
  var folded = [];
  window.addEventListener("beforeprint", function () {
    each("details:not([open])", function (fold) { fold.open = true; folded.push(fold); });
  });
  window.addEventListener("afterprint", function () {
    folded.splice(0).forEach(function (fold) { fold.open = false; });
  });

  // Tables that are wider than the page say so.
  each(".pk-scroll", function (region) {
    var hint = document.createElement("p");
    hint.className = "pk-hint";
    hint.hidden = true;
    hint.textContent = "scroll sideways for more columns \u2192";
    region.parentNode.insertBefore(hint, region);
    function look() {
      var over = region.scrollWidth - region.clientWidth;
      hint.hidden = over < 2;
      if (over >= 2 && region.scrollLeft < over - 2) { region.dataset.more = "right"; } else { delete region.dataset.more; }
    }
    region.addEventListener("scroll", look, { passive: true });
    new ResizeObserver(look).observe(region);
  });
}());
