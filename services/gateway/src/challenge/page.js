(() => {
  const { challenge, bits } = document.getElementById('challenge').dataset;
  const [state, bar, hint] = ['state', 'progress', 'hint'].map(id => document.getElementById(id));
  const show = shown => { bar.hidden = hint.hidden = !shown; };
  const say = word => { state.textContent = state.dataset[word]; show(false); };
  // SHA-256 (FIPS 180-4) of one block, its first word. crypto.subtle is not there over plain HTTP, and slower for so little.
  const H = [], K = [], W = new Int32Array(64);
  const fraction = (n, power) => { const root = n ** power; return (root - Math.floor(root)) * 2 ** 32 | 0; };
  for (let n = 2; K.length < 64; n++) {
    let d = 2;
    while (d * d <= n && n % d) d++;
    if (d * d <= n) continue;
    if (H.length < 8) H.push(fraction(n, 1 / 2));
    K.push(fraction(n, 1 / 3));
  }
  const turn = (x, n) => x >>> n | x << 32 - n;
  const hash = text => {
    W.fill(0, 0, 16);
    for (let i = 0; i < text.length; i++) W[i >> 2] |= text.charCodeAt(i) << 24 - i % 4 * 8;
    W[text.length >> 2] |= 128 << 24 - text.length % 4 * 8;
    W[15] = text.length * 8;
    for (let i = 16; i < 64; i++) {
      const x = W[i - 15], y = W[i - 2];
      W[i] = W[i - 16] + (turn(x, 7) ^ turn(x, 18) ^ x >>> 3) + W[i - 7] + (turn(y, 17) ^ turn(y, 19) ^ y >>> 10);
    }
    let [a, b, c, d, e, f, g, h] = H;
    for (let i = 0; i < 64; i++) {
      const s = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + (e & f ^ ~e & g) + K[i] + W[i] | 0;
      const t = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + (a & b ^ a & c ^ b & c) | 0;
      h = g; g = f; f = e; e = d + s | 0; d = c; c = b; b = a; a = s + t | 0;
    }
    return H[0] + a | 0;
  };
  // Who is sent here again at once would be so for ever.
  const key = 'sumun-challenge';
  let last = 0;
  try { last = +sessionStorage.getItem(key); } catch (_) {}
  if (Date.now() - last < 3000) return say('failed');
  const done = answer => {
    const secure = location.protocol === 'https:' ? '; Secure' : '';
    document.cookie = 'sumun_answer=' + answer + '; Path=/; Max-Age=60; SameSite=Lax' + secure;
    if (!document.cookie.includes(answer)) return say('cookie');
    try { sessionStorage.setItem(key, Date.now()); } catch (_) {}
    location.reload();
  };
  let number = 0;
  // In slices: the page stays alive.
  const work = () => {
    const until = performance.now() + 30;
    while (performance.now() < until) {
      for (let i = 0; i < 256; i++, number++) {
        const answer = challenge + '.' + number;
        if (Math.clz32(hash(answer)) >= bits) return done(answer);
      }
    }
    bar.value = 1 - Math.exp(-number / 2 ** bits);
    setTimeout(work);
  };
  show(true);
  work();
})();
