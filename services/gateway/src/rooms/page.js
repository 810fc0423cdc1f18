(() => {
  const script = document.getElementById('sumun-room');
  const lang = document.documentElement.lang || 'en';
  const parts = name => document.querySelectorAll('[data-room="' + name + '"]');
  const show = (name, text) => parts(name).forEach(part => { if (part.textContent !== text) part.textContent = text; });
  const say = word => parts('state').forEach(part => { const text = word ? part.dataset[word] || '' : ''; if (part.textContent !== text) part.textContent = text; });
  const title = document.title, url = location.origin + location.pathname + location.search, key = 'sumun-room ' + location.pathname;
  let place = +script.dataset.place, pause = +script.dataset.pause, speed = 0, asked = Date.now(), failures = 0, timer = 0, first = place;
  try { first = Math.max(place, +sessionStorage.getItem(key) || 0); sessionStorage.setItem(key, first); } catch (_) {}
  const enter = () => { try { sessionStorage.removeItem(key); } catch (_) {} location.replace(url); };
  const draw = () => {
    if (!place) return;
    const now = Math.max(1, Math.round(place - speed * (Date.now() - asked)));
    const text = now.toLocaleString(lang);
    show('place', text);
    document.title = '(' + text + ') ' + title;
    parts('progress').forEach(part => { part.hidden = false; part.max = first; part.value = first - now; });
  };
  const later = ms => { clearTimeout(timer); timer = setTimeout(ask, ms); };
  async function ask() {
    let answer;
    try {
      const response = await fetch(url, { headers: { Accept: 'application/json', 'X-Waiting-Room': 'look' }, cache: 'no-store', credentials: 'same-origin' });
      answer = await response.json();
      if (!answer.state) throw answer;
    } catch (_) {
      failures += 1;
      if (failures > 1) say('offline');
      return later(Math.min(30000, 2000 * 2 ** failures) * (0.5 + Math.random() / 2));
    }
    failures = 0;
    if (answer.state === 'called') { say('turn'); show('wait', ''); return enter(); }
    if (answer.state !== 'waiting') return setTimeout(enter, 5000 * (1 + Math.random()));
    const now = Date.now();
    if (answer.place < place && now > asked) speed = Math.min((place - answer.place) / (now - asked), answer.place / answer.ask_again_ms);
    place = answer.place; asked = now; pause = answer.ask_again_ms; first = Math.max(first, place);
    say('');
    show('wait', answer.wait);
    draw();
    later(pause > 2000 ? pause * (1 - Math.random() / 8) : pause);
  }
  document.addEventListener('visibilitychange', () => { if (!document.hidden && Date.now() - asked > 2000) later(0); });
  setInterval(draw, 1000);
  draw();
  if (place) later(pause > 2000 ? pause * (1 - Math.random() / 8) : pause); else setTimeout(enter, pause * (1 + Math.random()));
})();
