// The reserve spike: reservations arrive at a rate, whether or not the answers keep up.
//
//   k6 run -e RATE=2000 -e DURATION=10s bench/k6/spike.js          one rate
//   k6 run -e RATES=500,1000,2000 -e DURATION=6s bench/k6/spike.js  one after another: which is the highest that holds?
//   k6 run -e OPENS_AT=1767225600000 -e RATE=2000 bench/k6/spike.js the opening second of a sale (ms since 1970), from three
//                                                                   seconds before (SALE, SKU and PRODUCT say which): "not open" is the answer until then
import { sleep } from 'k6';
import exec from 'k6/execution';
import { Counter, Trend } from 'k6/metrics';
import { common, demands, goods, report, sessions, shoppers, steps, turn } from './shop.js';

const rates = (__ENV.RATES || __ENV.RATE || '1000').split(',').map(Number);
const opens = Number(__ENV.OPENS_AT || 0);
const seconds = Number((__ENV.DURATION || '10s').replace('s', ''));
const gap = 2;
const tag = __ENV.RUN || String(Date.now());

const early = new Counter('told_not_open');
const opening = new Trend('opening_second', true);

const scenarios = {};
const thresholds = Object.assign(steps(['reserve']), demands, { dropped_iterations: ['count==0'] });
rates.forEach((rate, i) => {
  const name = `rate_${rate}`;
  scenarios[name] = {
    executor: 'constant-arrival-rate', rate, timeUnit: '1s', duration: `${seconds}s`, startTime: `${i * (seconds + gap)}s`,
    preAllocatedVUs: Math.min(400, Math.max(20, Math.ceil(rate / 5))), maxVUs: Math.min(400, Math.max(20, Math.ceil(rate / 5))), gracefulStop: `${gap}s`,
  };
  thresholds[`http_req_duration{scenario:${name},name:reserve}`] = ['p(95)<100'];
  thresholds[`http_reqs{scenario:${name}}`] = ['count>=0'];
  thresholds[`http_req_failed{scenario:${name}}`] = ['rate==0'];
  thresholds[`dropped_iterations{scenario:${name}}`] = ['count==0'];
});

export const options = Object.assign({}, common, { scenarios, thresholds, setupTimeout: '300s' });

export function setup() {
  const data = { item: goods(), tokens: sessions(Math.min(shoppers, Number(__ENV.SESSIONS || 64))) };
  if (opens > 0) sleep(Math.max(0, (opens - 3000 - Date.now()) / 1000));
  return data;
}

export default function (data) {
  const n = exec.scenario.iterationInTest;
  const me = turn(data, n);
  const key = `${tag}-${exec.scenario.name}-${n}`;
  const now = Date.now();
  me.reserve(key, me.body, opens > 0 && now < opens + 250 ? early : null); // the terms of a sale may be 250 ms old
  if (opens > 0 && now >= opens && now < opens + 1000) opening.add(Date.now() - now);
}

export const handleSummary = report;
