import static java.util.concurrent.TimeUnit.NANOSECONDS;

import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.common.AttributesBuilder;
import io.opentelemetry.api.common.Value;
import io.opentelemetry.api.logs.Logger;
import io.opentelemetry.api.logs.LoggerProvider;
import io.opentelemetry.api.logs.Severity;
import io.opentelemetry.api.metrics.DoubleHistogram;
import io.opentelemetry.api.metrics.LongCounter;
import io.opentelemetry.api.metrics.LongUpDownCounter;
import io.opentelemetry.api.metrics.Meter;
import io.opentelemetry.api.metrics.MeterProvider;
import io.opentelemetry.api.metrics.ObservableDoubleMeasurement;
import io.opentelemetry.api.metrics.ObservableLongMeasurement;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanContext;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.api.trace.TraceFlags;
import io.opentelemetry.api.trace.TraceState;
import io.opentelemetry.api.trace.Tracer;
import io.opentelemetry.api.trace.TracerProvider;
import io.opentelemetry.context.Context;
import io.opentelemetry.exporter.otlp.http.logs.OtlpHttpLogRecordExporter;
import io.opentelemetry.exporter.otlp.http.metrics.OtlpHttpMetricExporter;
import io.opentelemetry.exporter.otlp.http.trace.OtlpHttpSpanExporter;
import io.opentelemetry.exporter.otlp.logs.OtlpGrpcLogRecordExporter;
import io.opentelemetry.exporter.otlp.metrics.OtlpGrpcMetricExporter;
import io.opentelemetry.exporter.otlp.trace.OtlpGrpcSpanExporter;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.autoconfigure.AutoConfiguredOpenTelemetrySdk;
import io.opentelemetry.sdk.common.CompletableResultCode;
import io.opentelemetry.sdk.logs.export.LogRecordExporter;
import io.opentelemetry.sdk.metrics.Aggregation;
import io.opentelemetry.sdk.metrics.InstrumentSelector;
import io.opentelemetry.sdk.metrics.InstrumentType;
import io.opentelemetry.sdk.metrics.View;
import io.opentelemetry.sdk.metrics.data.AggregationTemporality;
import io.opentelemetry.sdk.metrics.data.MetricData;
import io.opentelemetry.sdk.metrics.export.MetricExporter;
import io.opentelemetry.sdk.resources.Resource;
import io.opentelemetry.sdk.trace.export.SpanExporter;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/**
 * A small app on opentelemetry-java: PROTOCOL RUN UNIX_NANO VALUE COUNT DIRECT_ENDPOINT.
 *
 * <p>It exports everything twice: to OTEL_EXPORTER_OTLP_ENDPOINT, with the SDK as its environment
 * variables set it up, and the same objects to DIRECT_ENDPOINT. See ../README.md for what.
 */
public final class App {
  private static final String SCHEMA = "https://opentelemetry.io/schemas/1.37.0";
  private static final List<String> OWN_METERS =
      List.of(
          "io.opentelemetry.sdk.logs", "io.opentelemetry.sdk.trace",
          "io.opentelemetry.exporters.otlp-grpc", "io.opentelemetry.exporters.otlp-http");
  private static final AttributeKey<String> ROUTE = AttributeKey.stringKey("route");
  private static final AttributeKey<String> STATE = AttributeKey.stringKey("state");

  /** Gives one collection to two exporters: two readers would collect at two times. */
  private record Both(MetricExporter first, MetricExporter second) implements MetricExporter {
    @Override
    public CompletableResultCode export(Collection<MetricData> metrics) {
      return CompletableResultCode.ofAll(List.of(first.export(metrics), second.export(metrics)));
    }

    @Override
    public CompletableResultCode flush() {
      return CompletableResultCode.ofAll(List.of(first.flush(), second.flush()));
    }

    @Override
    public CompletableResultCode shutdown() {
      return CompletableResultCode.ofAll(List.of(first.shutdown(), second.shutdown()));
    }

    @Override
    public AggregationTemporality getAggregationTemporality(InstrumentType type) {
      return first.getAggregationTemporality(type);
    }

    @Override
    public Aggregation getDefaultAggregation(InstrumentType type) {
      return first.getDefaultAggregation(type);
    }
  }

  private static AttributesBuilder everyType(long value) {
    return Attributes.builder()
        .put("text", "Füße ☕ \0 end")
        .put("empty", "")
        .put("yes", true)
        .put("no", false)
        .put("int", value)
        .put("big", (1L << 53) - 1)
        .put("negative", -value)
        .put("double", value / 8.0)
        .put("texts", "a", "", "ß")
        .put("bools", true, false)
        .put("ints", 0L, -1L, value)
        .put("doubles", 0.1, -2.5e-300)
        .put(AttributeKey.stringArrayKey("none"), List.of());
  }

  /** Makes the spans of ../README.md; the context of `parent`. */
  private static Context traces(TracerProvider provider, long start, long value, int count) {
    Tracer tracer =
        provider.tracerBuilder("checkout")
            .setInstrumentationVersion("1.2.3").setSchemaUrl(SCHEMA).build();
    SpanContext remote =
        SpanContext.createFromRemoteParent(
            "0102030405060708090a0b0c0d0e0f10", "0102030405060708", TraceFlags.getSampled(),
            TraceState.builder().put("other", "2").put("vendor", "one").build());
    Span parent =
        tracer.spanBuilder("parent").setNoParent().setSpanKind(SpanKind.SERVER)
            .setStartTimestamp(start, NANOSECONDS)
            .setAllAttributes(everyType(value).build())
            .addLink(remote, Attributes.builder().put("why", "retry").put("n", value).build())
            .startSpan();
    Context inside = Context.root().with(parent);
    parent.addEvent(
        "cache.miss", Attributes.builder().put("key", "k").put("age", value / 4.0).build(),
        start + 1_000_000, NANOSECONDS);
    parent.addEvent("bare", start + 2_000_000, NANOSECONDS);
    Span child =
        tracer.spanBuilder("child").setParent(inside).setSpanKind(SpanKind.CLIENT)
            .setStartTimestamp(start + 1_000_000, NANOSECONDS).startSpan();
    child.recordException(new IllegalStateException("card declined"));
    child.setStatus(StatusCode.ERROR, "card declined");
    child.end(start + 3_000_000, NANOSECONDS);
    for (int n = 0; n < count; n++) {
      tracer.spanBuilder(String.format("item-%04d", n)).setParent(inside)
          .setStartTimestamp(start + n, NANOSECONDS).setAttribute("n", n).startSpan()
          .end(start + n + value, NANOSECONDS);
    }
    parent.end(start + 5_000_000, NANOSECONDS);
    Tracer stock = provider.get("stock");
    Map<String, SpanKind> roots = Map.of("worker", SpanKind.CONSUMER, "order", SpanKind.PRODUCER);
    roots.forEach(
        (name, kind) -> {
          Span root =
              stock.spanBuilder(name).setNoParent().setSpanKind(kind)
                  .setStartTimestamp(start, NANOSECONDS).startSpan();
          root.addLink(parent.getSpanContext());
          root.setStatus(StatusCode.OK);
          root.end(start + value, NANOSECONDS);
        });
    return inside;
  }

  private static void metrics(MeterProvider provider, Context inside, long value) {
    Meter meter =
        provider.meterBuilder("checkout")
            .setInstrumentationVersion("1.2.3").setSchemaUrl(SCHEMA).build();
    Attributes a = Attributes.of(ROUTE, "/a");
    LongCounter requests =
        meter.counterBuilder("requests")
            .setUnit("{request}").setDescription("Requests served").build();
    requests.add(value, everyType(value).put(ROUTE, "/a").build(), inside);
    requests.add(2 * value, Attributes.of(ROUTE, "/b"), inside);
    meter.counterBuilder("sent").ofDoubles().setUnit("By").build()
        .add(value / 2.0, Attributes.empty(), inside);
    LongUpDownCounter active = meter.upDownCounterBuilder("active").setUnit("{session}").build();
    active.add(value);
    active.add(-1);
    DoubleHistogram latency =
        meter.histogramBuilder("latency").setUnit("ms").setDescription("Time to answer").build();
    DoubleHistogram size = meter.histogramBuilder("size").setUnit("By").build();
    for (double measured : new double[] {0, 1, 2.5, 4, value, 123_456}) {
      latency.record(measured, a, inside);
      size.record(measured, a, inside);
    }
    meter.gaugeBuilder("temperature").setUnit("Cel").build()
        .set(-value / 2.0, Attributes.of(AttributeKey.stringKey("sensor"), "s1"));
    Meter stock = provider.get("stock");
    stock.counterBuilder("cpu.time").ofDoubles().setUnit("s")
        .buildWithCallback(seen -> observe(seen, value / 4.0));
    stock.upDownCounterBuilder("queued").setUnit("{order}")
        .buildWithCallback(seen -> observe(seen, -value));
    stock.gaugeBuilder("fan.speed").ofLongs().setUnit("rpm")
        .buildWithCallback(seen -> observe(seen, value));
  }

  private static void observe(ObservableDoubleMeasurement seen, double number) {
    seen.record(number, Attributes.of(STATE, "user"));
    seen.record(0, Attributes.of(STATE, "idle"));
  }

  private static void observe(ObservableLongMeasurement seen, long number) {
    seen.record(number, Attributes.of(STATE, "user"));
    seen.record(0, Attributes.of(STATE, "idle"));
  }

  private static void logs(
      LoggerProvider provider, Context inside, long start, long value, int count) {
    Logger logger =
        provider.loggerBuilder("checkout")
            .setInstrumentationVersion("1.2.3").setSchemaUrl(SCHEMA).build();
    Value<?> deep =
        Value.of(
            Map.of(
                "a", Value.of(Value.of(1), Value.of(Map.of("b", Value.empty()))),
                "c", Value.of(new byte[] {0, (byte) 255})));
    logger.logRecordBuilder()
        .setTimestamp(start, NANOSECONDS).setObservedTimestamp(start + 1, NANOSECONDS)
        .setContext(inside).setSeverity(Severity.INFO).setSeverityText("INFO")
        .setBody("paid").setAllAttributes(everyType(value).build()).setAttribute("deep", deep)
        .setEventName("order.paid").emit();
    logger.logRecordBuilder()
        .setTimestamp(start, NANOSECONDS).setObservedTimestamp(start + 1, NANOSECONDS)
        .setContext(Context.root()).setSeverity(Severity.FATAL4).setSeverityText("DISASTER")
        .setBody(
            Value.of(
                Map.of(
                    "text", Value.of("Füße"),
                    "n", Value.of(value),
                    "list",
                        Value.of(
                            Value.of(1), Value.of("two"), Value.of(3.5), Value.of(true),
                            Value.empty()),
                    "raw", Value.of(new byte[] {(byte) 128}))))
        .emit();
    for (int n = 0; n < count; n++) {
      logger.logRecordBuilder()
          .setTimestamp(start + n, NANOSECONDS).setObservedTimestamp(start + n, NANOSECONDS)
          .setContext(Context.root()).setSeverity(Severity.DEBUG)
          .setBody(String.format("line-%04d", n)).emit();
    }
  }

  private static OpenTelemetrySdk sdk(boolean grpc, String run, String direct) {
    SpanExporter spans =
        grpc
            ? OtlpGrpcSpanExporter.builder().setEndpoint(direct).build()
            : OtlpHttpSpanExporter.builder().setEndpoint(direct + "/v1/traces").build();
    MetricExporter metrics =
        grpc
            ? OtlpGrpcMetricExporter.builder().setEndpoint(direct).build()
            : OtlpHttpMetricExporter.builder().setEndpoint(direct + "/v1/metrics").build();
    LogRecordExporter logs =
        grpc
            ? OtlpGrpcLogRecordExporter.builder().setEndpoint(direct).build()
            : OtlpHttpLogRecordExporter.builder().setEndpoint(direct + "/v1/logs").build();
    Attributes who =
        Attributes.builder()
            .put("service.name", "sdk-java").put("test.run", run)
            .put("host.name", "the app's own").put("customer.id", "mallory")
            .put("node.rack", "of the app").put("ports", 80L, 443L).build();
    Map<String, String> settings =
        Map.of(
            "otel.exporter.otlp.protocol", grpc ? "grpc" : "http/protobuf",
            // An hour: the only collection is that of the shutdown.
            "otel.metric.export.interval", "3600000");
    View exponential =
        View.builder().setAggregation(Aggregation.base2ExponentialBucketHistogram()).build();
    View drop = View.builder().setAggregation(Aggregation.drop()).build();
    return AutoConfiguredOpenTelemetrySdk.builder()
        .disableShutdownHook()
        .addPropertiesSupplier(() -> settings)
        .addResourceCustomizer((found, config) -> Resource.create(who, SCHEMA))
        .addSpanExporterCustomizer((first, config) -> SpanExporter.composite(first, spans))
        .addMetricExporterCustomizer((first, config) -> new Both(first, metrics))
        .addLogRecordExporterCustomizer((first, config) -> LogRecordExporter.composite(first, logs))
        .addMeterProviderCustomizer(
            (meters, config) -> {
              // What the SDK tells of itself is no part of what the other languages send.
              for (String own : OWN_METERS) {
                meters.registerView(InstrumentSelector.builder().setMeterName(own).build(), drop);
              }
              return meters.registerView(
                  InstrumentSelector.builder().setName("size").build(), exponential);
            })
        .build()
        .getOpenTelemetrySdk();
  }

  public static void main(String[] args) {
    boolean grpc = args[0].equals("grpc");
    long start = Long.parseLong(args[2]);
    long value = Long.parseLong(args[3]);
    int count = Integer.parseInt(args[4]);
    OpenTelemetrySdk sdk = sdk(grpc, args[1], args[5]);
    Context inside = traces(sdk.getTracerProvider(), start, value, count);
    metrics(sdk.getMeterProvider(), inside, value);
    logs(sdk.getLogsBridge(), inside, start, value, count);
    CompletableResultCode done = sdk.shutdown().join(60, TimeUnit.SECONDS);
    System.exit(done.isSuccess() ? 0 : 1);
  }
}
