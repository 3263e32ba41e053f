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
  // A picture that scales when the page is printed narrower than it was drawn.
  function makeScalable(plot) {
    plot.querySelectorAll(".main-svg").forEach(function (svg) {
      svg.setAttribute("viewBox", "0 0 " + svg.getAttribute("width") + " " + svg.getAttribute("height"));
    });
  }
  function explain(plot, error) {
    plot.style.height = "auto";
    plot.className = "pk-note";
    plot.textContent = "This chart could not be drawn (" + error + "). The tables have the same numbers.";
  }
  function draw(plot) {
    try {
      var chart = JSON.parse(plot.parentNode.querySelector("script").textContent);
      // Dragging zooms; where fingers scroll the page, it does not.
      if (window.matchMedia("(pointer: coarse)").matches) { chart.layout.dragmode = false; }
      return Plotly.newPlot(plot, chart.data, chart.layout, config).then(function () {
        makeScalable(plot);
        plot.on("plotly_afterplot", function () { makeScalable(plot); });
      }).catch(function (error) { explain(plot, error); });
    } catch (error) {
      explain(plot, error);
      return Promise.resolve();
    }
  }
  var plots = Array.prototype.slice.call(document.querySelectorAll(".pk-plot"));
  // One after the other, so that the verdict can be read while the rest is drawn.
  plots.reduce(function (before, plot) {
    return before.then(function () { return draw(plot); }).then(function () {
      return new Promise(function (next) { setTimeout(next, 0); });
    });
  }, Promise.resolve()).then(function () { document.documentElement.dataset.drawn = String(plots.length); });
}());
