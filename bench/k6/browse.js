// Browsing while selling: people look at products and sales while others buy. Looking must stay fast.
//
//   k6 run -e VUS=50 -e RATE=200 -e DURATION=30s bench/k6/browse.js
import exec from 'k6/execution';
import http from 'k6/http';
import { base, common, demands, goods, report, sessions, shoppers, steps, turn, unexpected } from './shop.js';

const duration = __ENV.DURATION || '30s';
const rate = Number(__ENV.RATE || 100);
const tag = __ENV.RUN || String(Date.now());

export const options = Object.assign({}, common, {
  setupTimeout: '60s',
  scenarios: {
    browse: { executor: 'constant-vus', vus: Number(__ENV.VUS || 20), duration, exec: 'browse' },
    sell: { executor: 'constant-arrival-rate', rate, timeUnit: '1s', duration, preAllocatedVUs: Math.max(10, Math.ceil(rate / 5)), exec: 'sell' },
  },
  thresholds: Object.assign(
    steps(['list products', 'search', 'fetch product', 'fetch sale'], 'p(95)<500'),
    steps(['reserve'], 'p(95)<1000'),
    demands,
  ),
});

export function setup() {
  return { item: goods(), tokens: sessions(Math.min(shoppers, 16)) };
}

const ok = http.expectedStatuses(200);
const pages = [
  ['list products', () => '/api/v1/products?limit=20'],
  ['search', () => '/api/v1/products/search?q=sneaker'],
  ['fetch product', (item) => `/api/v1/products/${item.product}`],
  ['fetch sale', (item) => `/api/v1/sales/${item.sale}`],
].map(([name, path]) => ({ path, params: { tags: { name }, responseCallback: ok } }));

export function browse(data) {
  for (const page of pages) {
    const res = http.get(base + page.path(data.item), page.params);
    if (res.status !== 200) unexpected.add(1);
  }
}

export function sell(data) {
  const n = exec.scenario.iterationInTest;
  const me = turn(data, n);
  me.reserve(`${tag}-sell-${n}`, me.body);
}

export const handleSummary = report;
