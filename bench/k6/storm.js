// A login storm while the sale goes on: reservations at a rate, and STORM people who log in again and again.
//
//   k6 run -e RATE=200 -e STORM=100 -e DURATION=10s bench/k6/storm.js
//
// A login that is turned away (503, Too many log in at the moment) is an answer like another: it is what keeps the storm
// from the sale. A reservation that fails is a failure.
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter } from 'k6/metrics';
import { base, common, demands, goods, report, sessions, shoppers, steps, turn, unexpected } from './shop.js';

const rate = Number(__ENV.RATE || 100);
const storm = Number(__ENV.STORM || 0);
const duration = __ENV.DURATION || '10s';
const tag = __ENV.RUN || String(Date.now());

const loggedIn = new Counter('logged_in');
const busy = new Counter('told_busy');

const scenarios = {
  sell: { executor: 'constant-arrival-rate', rate, timeUnit: '1s', duration, preAllocatedVUs: Math.max(20, Math.ceil(rate / 4)), exec: 'sell' },
};
if (storm > 0) scenarios.storm = { executor: 'constant-vus', vus: storm, duration, gracefulStop: '15s', exec: 'login' };

export const options = Object.assign({}, common, { setupTimeout: '60s', scenarios, thresholds: Object.assign(steps(['reserve', 'login']), demands) });

export function setup() {
  return { item: goods(), tokens: sessions(Math.min(shoppers, 32)) };
}

export function sell(data) {
  const n = exec.scenario.iterationInTest;
  const me = turn(data, n);
  me.reserve(`${tag}-${n}`, me.body);
}

const either = http.expectedStatuses(200, 503);
const who = JSON.stringify({ email: `${__ENV.PREFIX || 'k6-'}0@example.com`, password: __ENV.PASSWORD || 'correct horse battery' });

export function login() {
  const res = http.post(`${base}/api/v1/auth/login`, who, {
    headers: { 'Content-Type': 'application/json' }, tags: { name: 'login' }, responseCallback: either, responseType: 'text',
  });
  if (res.status === 200) loggedIn.add(1);
  else if (res.status === 503 && res.body.includes('/problems/login-busy')) busy.add(1);
  else {
    unexpected.add(1);
    console.error(`login: ${res.status} ${res.error || res.body}`);
  }
}

export const handleSummary = report;
