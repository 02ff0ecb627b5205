// A small app on opentelemetry-js: PROTOCOL RUN UNIX_NANO VALUE COUNT DIRECT_ENDPOINT.
//
// It exports everything twice: to OTEL_EXPORTER_OTLP_ENDPOINT, with exporters as their environment
// variables set them up, and the same objects to DIRECT_ENDPOINT. See ../README.md for what.
'use strict';

const { ROOT_CONTEXT, SpanKind, SpanStatusCode, TraceFlags, createTraceState, trace } =
  require('@opentelemetry/api');
const { SeverityNumber } = require('@opentelemetry/api-logs');
const { resourceFromAttributes } = require('@opentelemetry/resources');
const { BatchLogRecordProcessor, LoggerProvider } = require('@opentelemetry/sdk-logs');
const { AggregationType, MeterProvider, PeriodicExportingMetricReader } =
  require('@opentelemetry/sdk-metrics');
const { BasicTracerProvider, BatchSpanProcessor } = require('@opentelemetry/sdk-trace-base');

const KINDS = { 'grpc': 'grpc', 'http/protobuf': 'proto', 'http/json': 'http' };
const SCHEMA = 'https://opentelemetry.io/schemas/1.37.0';
let failures = 0;

// Gives one collection to two exporters: two readers would collect at two times.
class Both {
  constructor(exporters) {
    this.exporters = exporters;
    // With these the reader asks the first exporter, which read the environment.
    this.selectAggregationTemporality = (kind) => exporters[0].selectAggregationTemporality(kind);
    this.selectAggregation = (kind) => exporters[0].selectAggregation(kind);
  }

  export(metrics, done) {
    let missing = this.exporters.length;
    for (const exporter of this.exporters) {
      exporter.export(metrics, (result) => {
        if (result.code !== 0) {
          failures += 1;
          console.error(result.error);
        }
        missing -= 1;
        if (missing === 0) done(result);
      });
    }
  }

  async forceFlush() {
    for (const exporter of this.exporters) await exporter.forceFlush();
  }

  async shutdown() {
    for (const exporter of this.exporters) await exporter.shutdown();
  }
}

// The exporter that the environment describes, and one to `direct`.
function exporters(protocol, signal, direct) {
  const [folder, name] = {
    traces: ['trace', 'OTLPTraceExporter'],
    metrics: ['metrics', 'OTLPMetricExporter'],
    logs: ['logs', 'OTLPLogExporter'],
  }[signal];
  const { [name]: Exporter } =
    require(`@opentelemetry/exporter-${folder}-otlp-${KINDS[protocol]}`);
  const url = protocol === 'grpc' ? direct : `${direct}/v1/${signal}`;
  return [new Exporter(), new Exporter({ url })];
}

function everyType(value) {
  return {
    'text': 'Füße ☕ \u0000 end',
    'empty': '',
    'yes': true,
    'no': false,
    'int': value,
    'big': Number.MAX_SAFE_INTEGER,
    'negative': -value,
    'double': value / 8,
    'texts': ['a', '', 'ß'],
    'bools': [true, false],
    'ints': [0, -1, value],
    'doubles': [0.1, -2.5e-300],
    'none': [],
  };
}

// The spans of ../README.md; the context of `parent`. `at(n)` is n nanoseconds after the start.
function traces(provider, at, value, count) {
  const tracer = provider.getTracer('checkout', '1.2.3', { schemaUrl: SCHEMA });
  const remote = {
    traceId: '0102030405060708090a0b0c0d0e0f10',
    spanId: '0102030405060708',
    isRemote: true,
    traceFlags: TraceFlags.SAMPLED,
    traceState: createTraceState('vendor=one,other=2'),
  };
  const parent = tracer.startSpan('parent', {
    kind: SpanKind.SERVER,
    attributes: everyType(value),
    startTime: at(0),
    links: [{ context: remote, attributes: { why: 'retry', n: value } }],
  }, ROOT_CONTEXT);
  const inside = trace.setSpan(ROOT_CONTEXT, parent);
  parent.addEvent('cache.miss', { key: 'k', age: value / 4 }, at(1e6));
  parent.addEvent('bare', at(2e6));
  const child =
    tracer.startSpan('child', { kind: SpanKind.CLIENT, startTime: at(1e6) }, inside);
  child.recordException(new TypeError('card declined'), at(2e6));
  child.setStatus({ code: SpanStatusCode.ERROR, message: 'card declined' });
  child.end(at(3e6));
  for (let n = 0; n < count; n += 1) {
    const name = `item-${String(n).padStart(4, '0')}`;
    tracer.startSpan(name, { startTime: at(n), attributes: { n } }, inside).end(at(n + value));
  }
  parent.end(at(5e6));
  const stock = provider.getTracer('stock');
  for (const [name, kind] of [['worker', SpanKind.CONSUMER], ['order', SpanKind.PRODUCER]]) {
    const root = stock.startSpan(name, { kind, startTime: at(0) }, ROOT_CONTEXT);
    root.addLink({ context: parent.spanContext() });
    root.setStatus({ code: SpanStatusCode.OK });
    root.end(at(value));
  }
  return inside;
}

function metrics(provider, inside, value) {
  const meter = provider.getMeter('checkout', '1.2.3', { schemaUrl: SCHEMA });
  const requests = meter.createCounter('requests', {
    unit: '{request}', description: 'Requests served', valueType: 0,
  });
  requests.add(value, { route: '/a', ...everyType(value) }, inside);
  requests.add(2 * value, { route: '/b' }, inside);
  meter.createCounter('sent', { unit: 'By' }).add(value / 2, {}, inside);
  const active = meter.createUpDownCounter('active', { unit: '{session}', valueType: 0 });
  active.add(value);
  active.add(-1);
  const latency = meter.createHistogram('latency', { unit: 'ms', description: 'Time to answer' });
  const size = meter.createHistogram('size', { unit: 'By' });
  for (const measured of [0, 1, 2.5, 4, value, 123456]) {
    latency.record(measured, { route: '/a' }, inside);
    size.record(measured, { route: '/a' }, inside);
  }
  meter.createGauge('temperature', { unit: 'Cel' }).record(-value / 2, { sensor: 's1' });
  const observe = (number) => (result) => {
    result.observe(number, { state: 'user' });
    result.observe(0, { state: 'idle' });
  };
  const stock = provider.getMeter('stock');
  stock.createObservableCounter('cpu.time', { unit: 's' }).addCallback(observe(value / 4));
  stock.createObservableUpDownCounter('queued', { unit: '{order}', valueType: 0 })
    .addCallback(observe(-value));
  stock.createObservableGauge('fan.speed', { unit: 'rpm', valueType: 0 })
    .addCallback(observe(value));
}

function logs(provider, inside, at, value, count) {
  const logger = provider.getLogger('checkout', '1.2.3', { schemaUrl: SCHEMA });
  logger.emit({
    timestamp: at(0), observedTimestamp: at(1), context: inside,
    severityNumber: SeverityNumber.INFO, severityText: 'INFO', body: 'paid',
    attributes: {
      ...everyType(value),
      deep: { a: [1, { b: null }], c: new Uint8Array([0, 255]) },
    },
    eventName: 'order.paid',
  });
  logger.emit({
    timestamp: at(0), observedTimestamp: at(1), context: ROOT_CONTEXT,
    severityNumber: SeverityNumber.FATAL4, severityText: 'DISASTER',
    body: {
      text: 'Füße', n: value, list: [1, 'two', 3.5, true, null], raw: new Uint8Array([128]),
    },
  });
  for (let n = 0; n < count; n += 1) {
    logger.emit({
      timestamp: at(n), observedTimestamp: at(n), context: ROOT_CONTEXT,
      severityNumber: SeverityNumber.DEBUG, body: `line-${String(n).padStart(4, '0')}`,
    });
  }
}

async function main() {
  const [protocol, run, nano, value, count, direct] = process.argv.slice(2);
  const start = BigInt(nano);
  // [seconds, nanoseconds]: a number would lose the nanoseconds.
  const at = (n) => {
    const time = start + BigInt(n);
    return [Number(time / 1000000000n), Number(time % 1000000000n)];
  };
  const resource = resourceFromAttributes({
    'service.name': 'sdk-javascript', 'test.run': run, 'host.name': "the app's own",
    'customer.id': 'mallory', 'node.rack': 'of the app', 'ports': [80, 443],
  }, { schemaUrl: SCHEMA });
  const tracers = new BasicTracerProvider({
    resource,
    spanProcessors: exporters(protocol, 'traces', direct).map((e) => new BatchSpanProcessor(e)),
  });
  const loggers = new LoggerProvider({
    resource,
    processors: exporters(protocol, 'logs', direct)
      .map((exporter) => new BatchLogRecordProcessor({ exporter })),
  });
  // An hour: the only collection is that of the shutdown.
  const reader = new PeriodicExportingMetricReader({
    exporter: new Both(exporters(protocol, 'metrics', direct)), exportIntervalMillis: 3600000,
  });
  const meters = new MeterProvider({
    resource,
    readers: [reader],
    views: [{
      instrumentName: 'size', aggregation: { type: AggregationType.EXPONENTIAL_HISTOGRAM },
    }],
  });
  const inside = traces(tracers, at, Number(value), Number(count));
  metrics(meters, inside, Number(value));
  logs(loggers, inside, at, Number(value), Number(count));
  for (const provider of [tracers, meters, loggers]) await provider.shutdown();
}

main().then(
  () => process.exit(failures),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
