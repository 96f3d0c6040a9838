// What the scripts share: who the shoppers are, the steps of the journey, and what counts as a failure.
//
// Settings come from the environment (k6 run -e NAME=value, or the shell's):
//   BASE_URL   where the API answers                      http://127.0.0.1:8080
//   SALE SKU PRODUCT   what is bought; without them the first open sale is
//   SHOPPERS   accounts that are there: PREFIX<n>@example.com, n from 0     (flashsale bench ab makes them)
//   PREFIX PASSWORD    of these accounts
//              The shop must not bound what one of them does: flashsale serve --max-unpaid=0 --shopper-rate=0
//   SUMMARY    file for the summary as JSON               summary.json
//
// k6 runs on the machine that it measures, so a request must cost it little: bodies are dropped unless they are
// looked at, ids come from Location, nothing but the tokens is parsed, and there are as few tags as can be.
import http from 'k6/http';
import { check, fail, sleep } from 'k6';
import { Counter, Trend } from 'k6/metrics';

export const base = __ENV.BASE_URL || 'http://127.0.0.1:8080';
export const shoppers = Number(__ENV.SHOPPERS || 500);
const prefix = __ENV.PREFIX || 'k6-';
const password = __ENV.PASSWORD || 'correct horse battery';
const json = 'application/json';

export const unexpected = new Counter('unexpected_answers');
export const acknowledged = new Counter('acknowledged');
export const soldOut = new Counter('sold_out');
export const decision = new Trend('time_to_decision', true);

export const common = {
  discardResponseBodies: true,
  noVUConnectionReuse: false,
  systemTags: ['name', 'scenario', 'expected_response'],
  summaryTrendStats: ['avg', 'min', 'med', 'p(90)', 'p(95)', 'p(99)', 'max', 'count'],
};

// What every script asks of a run. A sold out sale is an answer like another; anything that is not expected fails it.
export const demands = {
  http_req_failed: ['rate==0'],
  unexpected_answers: ['count==0'],
};

// One threshold a step makes k6 keep the step's latencies apart in the summary.
export function steps(names, bound) {
  const out = {};
  for (const name of names) out[`http_req_duration{name:${name}}`] = [bound || 'max>=0'];
  return out;
}

const ok = http.expectedStatuses(200);
const created = http.expectedStatuses(201);
const decided = http.expectedStatuses(201, 409); // whether a 409 is "sold out" is looked at
const early = http.expectedStatuses(201, 409, 422); // likewise "not open", before the sale opens
const paid = http.expectedStatuses(201, 202);

function surprise(step, res) {
  unexpected.add(1);
  console.error(`${step}: ${res.status} ${res.error || res.body || ''}`);
}

// A shopper with a session: the headers are made once.
export class Shopper {
  constructor(n, token) {
    this.n = n;
    this.token = token || '';
    this.run = 0;
  }

  params(name, expected, responseType) {
    const p = { headers: { Authorization: `Bearer ${this.token}`, 'Content-Type': json }, tags: { name }, responseCallback: expected };
    if (responseType) p.responseType = responseType;
    return p;
  }

  login() {
    const res = http.post(`${base}/api/v1/auth/login`, `{"email":"${prefix}${this.n}@example.com","password":"${password}"}`, {
      headers: { 'Content-Type': json }, tags: { name: 'login' }, responseCallback: ok, responseType: 'text',
    });
    if (res.status !== 200) {
      surprise('login', res);
      return false;
    }
    this.token = res.json('access_token');
    this.prepare();
    return true;
  }

  prepare() {
    this.cartParams = this.params('create cart', created);
    this.productParams = this.params('fetch product', ok);
    this.itemParams = this.params('add item', ok);
    this.reserveParams = this.params('reserve', decided, 'text');
    this.reserveParams.headers.Prefer = 'wait=8'; // asynchronous: the answer is the decision
    this.payParams = this.params('pay', paid);
    this.orderParams = this.params('confirm', ok, 'text');
  }

  createCart() {
    const res = http.post(`${base}/api/v1/carts`, null, this.cartParams);
    if (res.status === 201) return res.headers.Location;
    surprise('create cart', res);
    return '';
  }

  product(id) {
    const res = http.get(`${base}/api/v1/products/${id}`, this.productParams);
    if (res.status === 200) return true;
    surprise('fetch product', res);
    return false;
  }

  addItem(cart, body) {
    const res = http.post(`${base}${cart}/items`, body, this.itemParams);
    if (res.status === 200) return true;
    surprise('add item', res);
    return false;
  }

  // reserve returns the reservation's id, or '' when there is none. While another request of the same shopper is on its way,
  // the gate cannot tell whether a refused one is the same again, and asks to repeat it: that is done, with its key. "Not open" is unexpected, unless there is a
  // counter for it.
  reserve(key, body, notOpen) {
    this.reserveParams.headers['Idempotency-Key'] = key;
    this.reserveParams.responseCallback = notOpen ? early : decided;
    let res;
    for (let tries = 0; tries < 20; tries += 1) {
      res = http.post(`${base}/api/v1/reservations`, body, this.reserveParams);
      if (res.status === 201) {
        acknowledged.add(1);
        decision.add(res.timings.duration);
        return res.headers.Location.slice(-36);
      }
      if (res.status !== 409 || !res.body || !res.body.includes('/problems/in-flight')) break;
      sleep(0.2);
    }
    if (res.status === 409 && res.body && (res.body.includes('/problems/sold-out') || res.body.includes('/problems/held-out'))) {
      soldOut.add(1);
      return '';
    }
    if (notOpen && res.status === 422 && res.body && res.body.includes('/problems/sale-not-open')) {
      notOpen.add(1);
      return '';
    }
    surprise('reserve', res);
    return '';
  }

  // echo asks the baseline what reserve asks a shop: the answer names no reservation.
  echo(key, body) {
    this.reserveParams.headers['Idempotency-Key'] = key;
    const res = http.post(`${base}/api/v1/reservations`, body, this.reserveParams);
    if (res.status !== 201) surprise('echo', res);
  }

  pay(order, key) {
    this.payParams.headers['Idempotency-Key'] = key;
    const res = http.post(`${base}/api/v1/orders/${order}/payments`, '{"method":"tok_ok"}', this.payParams);
    if (res.status === 201 || res.status === 202) return res.status;
    surprise('pay', res);
    return 0;
  }

  // state returns the order's state, or '' when it cannot be had.
  state(order) {
    const res = http.get(`${base}/api/v1/orders/${order}`, this.orderParams);
    if (res.status !== 200) {
      surprise('confirm', res);
      return '';
    }
    if (res.body.includes('"state":"confirmed"')) return 'confirmed';
    return res.body.includes('"state":"open"') ? 'open' : 'over';
  }
}

// goods returns what is bought: as the environment says, or the first open sale's first item.
export function goods() {
  if (__ENV.SALE) return { sale: __ENV.SALE, sku: __ENV.SKU, product: __ENV.PRODUCT };
  const res = http.get(`${base}/api/v1/sales`, { responseType: 'text', tags: { name: 'prepare' } });
  const open = res.status === 200 ? res.json('sales').filter((s) => s.status === 'open') : [];
  if (open.length === 0) fail(`${base} has no open sale: open one, or set SALE, SKU and PRODUCT`);
  return { sale: open[0].id, sku: open[0].items[0].sku, product: open[0].items[0].product_id };
}

// sessions logs shoppers in, a few at a time, and returns their tokens: for the scripts that do not measure the login.
export function sessions(count) {
  const tokens = [];
  for (let from = 0; from < count; from += 4) {
    const batch = [];
    for (let n = from; n < Math.min(from + 4, count); n += 1) {
      batch.push(['POST', `${base}/api/v1/auth/login`, `{"email":"${prefix}${n}@example.com","password":"${password}"}`,
        { headers: { 'Content-Type': json }, tags: { name: 'login' }, responseType: 'text' }]);
    }
    for (const res of http.batch(batch)) {
      if (!check(res, { 'logged in': (r) => r.status === 200 })) {
        fail(`login: ${res.status} ${res.body}: are there accounts ${prefix}0@example.com and so on? flashsale bench ab makes them`);
      }
      tokens.push(res.json('access_token'));
    }
  }
  return tokens;
}

// turn returns whose turn it is at the nth arrival, with what they ask for as body: for the scripts in which
// reservations arrive at a rate. data is what setup returned.
let crowd;
export function turn(data, n) {
  if (!crowd) {
    const body = JSON.stringify({ sale_id: data.item.sale, sku: data.item.sku, quantity: 1 });
    crowd = data.tokens.map((token, i) => {
      const s = new Shopper(i, token);
      s.prepare();
      s.body = body;
      return s;
    });
  }
  return crowd[n % crowd.length];
}

// report writes the summary as JSON, and a few lines for people. early is how long it took before the load began, s.
export function report(data, early) {
  data.early = early || 0;
  const m = data.metrics;
  const seconds = data.state.testRunDurationMs / 1000 - data.early;
  const ms = (t) => (t ? `${t.values.avg.toFixed(1)} / ${t.values['p(95)'].toFixed(1)} / ${t.values['p(99)'].toFixed(1)} ms` : '–');
  const count = (c) => (c ? c.values.count : 0);
  const failed = Object.keys(m).filter((k) => Object.values(m[k].thresholds || {}).some((t) => !t.ok));
  const lines = [
    `requests ${count(m.http_reqs)}, ${(count(m.http_reqs) / seconds).toFixed(0)} a second, failed ${(100 * (m.http_req_failed ? m.http_req_failed.values.rate : 0)).toFixed(2)} %, unexpected ${count(m.unexpected_answers)}`,
    `all      average / P95 / P99 ${ms(m.http_req_duration)}`,
    `decision average / P95 / P99 ${ms(m.time_to_decision)}`,
    `acknowledged ${count(m.acknowledged)}, told sold out ${count(m.sold_out)}`,
    failed.length ? `MISSED: ${failed.join(', ')}` : 'every threshold met',
    '',
  ];
  return { stdout: lines.join('\n'), [__ENV.SUMMARY || 'summary.json']: JSON.stringify(data) };
}
