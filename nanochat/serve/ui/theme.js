// Runs before the page is painted, so that a dark page never flashes white.
try {
  const theme = JSON.parse(localStorage.getItem("nanochat.settings"))?.theme;
  if (theme) document.documentElement.dataset.theme = theme;
} catch { /* storage forbidden: the system's theme it is */ }
