// The soak: checkout journeys at a modest rate for a long time. What leaks or grows shows itself as latency.
//
//   k6 run -e RATE=50 -e DURATION=30m bench/k6/soak.js
import { shop } from './checkout.js';
import { common, demands, goods, report, shoppers, steps } from './shop.js';

const rate = Number(__ENV.RATE || 20);

export const options = Object.assign({}, common, {
  scenarios: {
    // Whoever is free takes the next journey: a shopper logs in once, and not at the same time as the others.
    soak: { executor: 'ramping-arrival-rate', startRate: 1, timeUnit: '1s', preAllocatedVUs: Math.min(shoppers, 4 * rate + 10),
      stages: [{ target: rate, duration: '10s' }, { target: rate, duration: __ENV.DURATION || '30m' }] },
  },
  thresholds: Object.assign(
    steps(['login', 'create cart', 'fetch product', 'add item', 'reserve', 'pay', 'confirm']),
    { 'http_req_duration{name:reserve}': ['p(95)<250'], 'http_req_duration{name:pay}': ['p(95)<500'], dropped_iterations: ['count<10'] },
    demands,
  ),
});

export const setup = goods;

export default function (item) {
  shop(item, 0);
}

export const handleSummary = report;
