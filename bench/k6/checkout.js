// The checkout journey: log in, cart, product, item, reservation, payment, confirmation.
//
//   k6 run -e VUS=250 -e DURATION=60s bench/k6/checkout.js
//   flashsale bench ab      prepares the accounts and the sale, and runs it on both wirings
//
// Every virtual user is a shopper with an account of their own. Before the doors open they come one after another, LOGINS
// a second, log in, and keep their token for all their journeys, as a client does while it lives (15 minutes). Then the
// doors open, for DURATION, and everybody begins at once. There is no time to think: the next request follows the answer.
// In the asynchronous wiring a reservation is answered with its decision (Prefer: wait) and a payment with 202; the
// order is then asked for until it is confirmed. That time counts, and so do these requests.
// LOG=yes writes a line for every login and every reservation, with which the runner looks them up afterwards.
import { sleep } from 'k6';
import exec from 'k6/execution';
import { Counter, Trend } from 'k6/metrics';
import { Shopper, common, demands, goods, report, shoppers, steps, unexpected } from './shop.js';

const vus = Number(__ENV.VUS || 250);
const logins = Number(__ENV.LOGINS || 25);
const early = Math.ceil(vus / logins) + 2; // s in which they log in
const log = __ENV.LOG === 'yes';
const tag = __ENV.RUN || String(Date.now());
const patience = 10000; // ms until an order must be confirmed
const seconds = Number((__ENV.DURATION || '60s').replace('s', ''));

const confirmed = new Counter('confirmed');
const journey = new Trend('journey', true);
const confirmation = new Trend('time_to_confirmation', true);

export const options = Object.assign({}, common, {
  scenarios: {
    checkout: { executor: 'constant-vus', vus, duration: `${early + seconds}s`, gracefulStop: '30s' },
  },
  thresholds: Object.assign(
    steps(['login', 'create cart', 'fetch product', 'add item', 'reserve', 'pay', 'confirm']),
    demands,
  ),
});

export const setup = goods;

let me;
let body;

export default function (item) {
  shop(item, exec.scenario.startTime + 1000 * early);
}

// shop is one journey of this virtual user. Its first begins when the doors open (ms since 1970).
export function shop(item, doors) {
  if (!me) {
    const n = exec.vu.idInInstance - 1;
    if (n >= shoppers) throw new Error(`${vus} virtual users need as many accounts: SHOPPERS is ${shoppers}`);
    me = new Shopper(n);
    body = JSON.stringify({ sale_id: item.sale, sku: item.sku, quantity: 1 });
    sleep(n / logins);
    if (!me.login()) {
      me = null;
      sleep(1);
      return;
    }
    if (log) console.log(`token ${n} ${me.token}`);
    sleep(Math.max(0, (doors - Date.now()) / 1000));
  }
  const began = Date.now();
  me.run += 1;
  const key = `${tag}-${me.n}-${me.run}`;
  const cart = me.createCart();
  if (!cart || !me.product(item.product) || !me.addItem(cart, body)) return;
  const order = me.reserve(key, `${body.slice(0, -1)},"cart_id":"${cart.slice(-36)}"}`);
  if (!order) return;
  if (log) console.log(`reserved ${me.n} ${order}`);
  const status = me.pay(order, key);
  if (!status) return;
  const asked = Date.now();
  let state = me.state(order);
  for (let wait = 0.05; state === 'open' && Date.now() - asked < patience; wait = Math.min(2 * wait, 0.5)) {
    sleep(wait);
    state = me.state(order);
  }
  if (state !== 'confirmed') {
    if (state) {
      unexpected.add(1);
      console.error(`confirm: the order ${order} is ${state} after ${Date.now() - asked} ms`);
    }
    return;
  }
  if (log) console.log(`confirmed ${me.n} ${order}`);
  confirmed.add(1);
  confirmation.add(Date.now() - asked);
  journey.add(Date.now() - began);
}

export const handleSummary = (data) => report(data, early);
