// A small app on opentelemetry-go: PROTOCOL RUN UNIX_NANO VALUE COUNT DIRECT_ENDPOINT.
//
// It exports everything twice: to OTEL_EXPORTER_OTLP_ENDPOINT, with exporters as their environment
// variables set them up, and the same objects to DIRECT_ENDPOINT. See ../README.md for what.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	otellog "go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const schema = "https://opentelemetry.io/schemas/1.37.0"

var team = attribute.NewSet(attribute.String("team", "shop"))

// both gives one collection to two exporters: two readers would collect at two times.
type both struct {
	sdkmetric.Exporter // the first, which read the environment
	second             sdkmetric.Exporter
}

func (b both) Export(ctx context.Context, metrics *metricdata.ResourceMetrics) error {
	return errors.Join(b.Exporter.Export(ctx, metrics), b.second.Export(ctx, metrics))
}

func (b both) ForceFlush(ctx context.Context) error {
	return errors.Join(b.Exporter.ForceFlush(ctx), b.second.ForceFlush(ctx))
}

func (b both) Shutdown(ctx context.Context) error {
	return errors.Join(b.Exporter.Shutdown(ctx), b.second.Shutdown(ctx))
}

func everyType(value int64, more ...attribute.KeyValue) []attribute.KeyValue {
	return append([]attribute.KeyValue{
		attribute.String("text", "Füße ☕ \u0000 end"),
		attribute.String("empty", ""),
		attribute.Bool("yes", true),
		attribute.Bool("no", false),
		attribute.Int64("int", value),
		attribute.Int64("big", 1<<53-1),
		attribute.Int64("negative", -value),
		attribute.Float64("double", float64(value)/8),
		attribute.StringSlice("texts", []string{"a", "", "ß"}),
		attribute.BoolSlice("bools", []bool{true, false}),
		attribute.Int64Slice("ints", []int64{0, -1, value}),
		attribute.Float64Slice("doubles", []float64{0.1, -2.5e-300}),
		attribute.StringSlice("none", nil),
	}, more...)
}

// traces makes the spans of ../README.md and returns the context of `parent`.
func traces(provider trace.TracerProvider, start time.Time, value int64, count int) context.Context {
	tracer := provider.Tracer("checkout", trace.WithInstrumentationVersion("1.2.3"),
		trace.WithSchemaURL(schema), trace.WithInstrumentationAttributes(team.ToSlice()...))
	state, err := trace.ParseTraceState("vendor=one,other=2")
	must(err)
	remote := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID:    trace.TraceID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
		SpanID:     trace.SpanID{1, 2, 3, 4, 5, 6, 7, 8},
		TraceFlags: trace.FlagsSampled,
		TraceState: state,
		Remote:     true,
	})
	after := func(nanoseconds int64) trace.SpanEventOption {
		return trace.WithTimestamp(start.Add(time.Duration(nanoseconds)))
	}
	inside, parent := tracer.Start(context.Background(), "parent",
		trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(start),
		trace.WithAttributes(everyType(value)...),
		trace.WithLinks(trace.Link{SpanContext: remote, Attributes: []attribute.KeyValue{
			attribute.String("why", "retry"), attribute.Int64("n", value),
		}}))
	parent.AddEvent("cache.miss", after(1e6), trace.WithAttributes(
		attribute.String("key", "k"), attribute.Float64("age", float64(value)/4)))
	parent.AddEvent("bare", after(2e6))
	_, child := tracer.Start(inside, "child", trace.WithSpanKind(trace.SpanKindClient),
		trace.WithTimestamp(start.Add(time.Millisecond)))
	child.RecordError(errors.New("card declined"), trace.WithTimestamp(start.Add(2*time.Millisecond)))
	child.SetStatus(codes.Error, "card declined")
	child.End(trace.WithTimestamp(start.Add(3 * time.Millisecond)))
	for n := range count {
		begun := start.Add(time.Duration(n))
		_, item := tracer.Start(inside, fmt.Sprintf("item-%04d", n), trace.WithTimestamp(begun))
		item.SetAttributes(attribute.Int("n", n))
		item.End(trace.WithTimestamp(begun.Add(time.Duration(value))))
	}
	parent.End(trace.WithTimestamp(start.Add(5 * time.Millisecond)))
	stock := provider.Tracer("stock")
	for name, kind := range map[string]trace.SpanKind{
		"worker": trace.SpanKindConsumer, "order": trace.SpanKindProducer,
	} {
		_, root := stock.Start(context.Background(), name,
			trace.WithSpanKind(kind), trace.WithTimestamp(start))
		root.AddLink(trace.Link{SpanContext: parent.SpanContext()})
		root.SetStatus(codes.Ok, "")
		root.End(trace.WithTimestamp(start.Add(time.Duration(value))))
	}
	return inside
}

func metrics(provider metric.MeterProvider, inside context.Context, value int64) {
	meter := provider.Meter("checkout", metric.WithInstrumentationVersion("1.2.3"),
		metric.WithSchemaURL(schema), metric.WithInstrumentationAttributes(team.ToSlice()...))
	a := attribute.String("route", "/a")
	requests, err := meter.Int64Counter("requests", metric.WithUnit("{request}"),
		metric.WithDescription("Requests served"))
	must(err)
	requests.Add(inside, value, metric.WithAttributes(everyType(value, a)...))
	requests.Add(inside, 2*value, metric.WithAttributes(attribute.String("route", "/b")))
	sent, err := meter.Float64Counter("sent", metric.WithUnit("By"))
	must(err)
	sent.Add(inside, float64(value)/2)
	active, err := meter.Int64UpDownCounter("active", metric.WithUnit("{session}"))
	must(err)
	active.Add(context.Background(), value)
	active.Add(context.Background(), -1)
	latency, err := meter.Float64Histogram("latency", metric.WithUnit("ms"),
		metric.WithDescription("Time to answer"))
	must(err)
	size, err := meter.Float64Histogram("size", metric.WithUnit("By"))
	must(err)
	for _, measured := range []float64{0, 1, 2.5, 4, float64(value), 123456} {
		latency.Record(inside, measured, metric.WithAttributes(a))
		size.Record(inside, measured, metric.WithAttributes(a))
	}
	temperature, err := meter.Float64Gauge("temperature", metric.WithUnit("Cel"))
	must(err)
	temperature.Record(context.Background(), -float64(value)/2,
		metric.WithAttributes(attribute.String("sensor", "s1")))
	user := metric.WithAttributes(attribute.String("state", "user"))
	idle := metric.WithAttributes(attribute.String("state", "idle"))
	integer := func(number int64) metric.Int64Callback {
		return func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(number, user)
			o.Observe(0, idle)
			return nil
		}
	}
	stock := provider.Meter("stock")
	_, err = stock.Float64ObservableCounter("cpu.time", metric.WithUnit("s"),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			o.Observe(float64(value)/4, user)
			o.Observe(0, idle)
			return nil
		}))
	must(err)
	_, err = stock.Int64ObservableUpDownCounter("queued", metric.WithUnit("{order}"),
		metric.WithInt64Callback(integer(-value)))
	must(err)
	_, err = stock.Int64ObservableGauge("fan.speed", metric.WithUnit("rpm"),
		metric.WithInt64Callback(integer(value)))
	must(err)
}

func logs(provider otellog.LoggerProvider, inside context.Context, start time.Time, value int64, count int) {
	logger := provider.Logger("checkout", otellog.WithInstrumentationVersion("1.2.3"),
		otellog.WithSchemaURL(schema), otellog.WithInstrumentationAttributes(team.ToSlice()...))
	var paid otellog.Record
	paid.SetTimestamp(start)
	paid.SetObservedTimestamp(start.Add(1))
	paid.SetSeverity(otellog.SeverityInfo)
	paid.SetSeverityText("INFO")
	paid.SetBody(attribute.StringValue("paid"))
	paid.AddAttributes(everyType(value, attribute.Map("deep",
		attribute.Slice("a", attribute.Int64Value(1),
			attribute.MapValue(attribute.KeyValue{Key: "b"})),
		attribute.ByteSlice("c", []byte{0, 255})))...)
	paid.SetEventName("order.paid")
	logger.Emit(inside, paid)
	var broken otellog.Record
	broken.SetTimestamp(start)
	broken.SetObservedTimestamp(start.Add(1))
	broken.SetSeverity(otellog.SeverityFatal4)
	broken.SetSeverityText("DISASTER")
	broken.SetBody(attribute.MapValue(
		attribute.String("text", "Füße"),
		attribute.Int64("n", value),
		attribute.Slice("list", attribute.Int64Value(1), attribute.StringValue("two"),
			attribute.Float64Value(3.5), attribute.BoolValue(true), attribute.Value{}),
		attribute.ByteSlice("raw", []byte{128})))
	logger.Emit(context.Background(), broken)
	for n := range count {
		var line otellog.Record
		line.SetTimestamp(start.Add(time.Duration(n)))
		line.SetObservedTimestamp(start.Add(time.Duration(n)))
		line.SetSeverity(otellog.SeverityDebug)
		line.SetBody(attribute.StringValue(fmt.Sprintf("line-%04d", n)))
		logger.Emit(context.Background(), line)
	}
}

func number(text string) int64 {
	parsed, err := strconv.ParseInt(text, 10, 64)
	must(err)
	return parsed
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	protocol, run, direct := os.Args[1], os.Args[2], os.Args[6]
	start, value, count := time.Unix(0, number(os.Args[3])), number(os.Args[4]), int(number(os.Args[5]))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	failures := 0
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		failures++
		fmt.Fprintln(os.Stderr, err)
	}))
	from := resource.NewWithAttributes(schema,
		attribute.String("service.name", "sdk-go"), attribute.String("test.run", run),
		attribute.String("host.name", "the app's own"), attribute.String("customer.id", "mallory"),
		attribute.String("node.rack", "of the app"), attribute.IntSlice("ports", []int{80, 443}))
	out, err := exporters(ctx, protocol, direct)
	must(err)
	tracers := sdktrace.NewTracerProvider(sdktrace.WithResource(from),
		sdktrace.WithBatcher(out.spans[0]), sdktrace.WithBatcher(out.spans[1]))
	loggers := log.NewLoggerProvider(log.WithResource(from),
		log.WithProcessor(log.NewBatchProcessor(out.logs[0])),
		log.WithProcessor(log.NewBatchProcessor(out.logs[1])))
	// An hour: the only collection is that of the shutdown.
	reader := sdkmetric.NewPeriodicReader(both{out.metrics[0], out.metrics[1]},
		sdkmetric.WithInterval(time.Hour))
	exponential := sdkmetric.NewView(
		sdkmetric.Instrument{Name: "size", Scope: instrumentation.Scope{Name: "checkout"}},
		sdkmetric.Stream{Aggregation: sdkmetric.AggregationBase2ExponentialHistogram{
			MaxSize: 160, MaxScale: 20,
		}})
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithResource(from),
		sdkmetric.WithReader(reader), sdkmetric.WithView(exponential))
	inside := traces(tracers, start, value, count)
	metrics(meters, inside, value)
	logs(loggers, inside, start, value, count)
	must(errors.Join(tracers.Shutdown(ctx), meters.Shutdown(ctx), loggers.Shutdown(ctx)))
	os.Exit(failures)
}
