// The baseline: what k6 and nginx reach against a server that only echoes the body of a reservation.
//
//   k6 run -e VUS=250 -e DURATION=15s -e BASE_URL=http://127.0.0.1:8089 bench/k6/echo.js
import { Shopper, common, demands, report } from './shop.js';

export const options = Object.assign({}, common, {
  scenarios: { echo: { executor: 'constant-vus', vus: Number(__ENV.VUS || 250), duration: __ENV.DURATION || '15s' } },
  thresholds: demands,
});

const body = '{"sale_id":"01900000-0000-7000-8000-000000000000","sku":"SNEAKER-1700000000000000","quantity":1}';
let me;
let run = 0;

export default function () {
  if (!me) {
    me = new Shopper(0, 'x'.repeat(280)); // as long as a token
    me.prepare();
  }
  run += 1;
  me.echo(`echo-${run}`, body);
}

export const handleSummary = report;
