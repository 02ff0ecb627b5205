package main

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// pair is an exporter as the environment describes it, and one to the direct endpoint.
type pair[T any] [2]T

type outputs struct {
	spans   pair[sdktrace.SpanExporter]
	metrics pair[sdkmetric.Exporter]
	logs    pair[log.Exporter]
}

func exporters(ctx context.Context, protocol, direct string) (out outputs, err error) {
	fail := func(e error) {
		if err == nil {
			err = e
		}
	}
	switch protocol {
	case "grpc":
		for i := range 2 {
			var spans []otlptracegrpc.Option
			var metrics []otlpmetricgrpc.Option
			var logs []otlploggrpc.Option
			if i == 1 {
				spans = append(spans, otlptracegrpc.WithEndpointURL(direct))
				metrics = append(metrics, otlpmetricgrpc.WithEndpointURL(direct))
				logs = append(logs, otlploggrpc.WithEndpointURL(direct))
			}
			var e error
			out.spans[i], e = otlptracegrpc.New(ctx, spans...)
			fail(e)
			out.metrics[i], e = otlpmetricgrpc.New(ctx, metrics...)
			fail(e)
			out.logs[i], e = otlploggrpc.New(ctx, logs...)
			fail(e)
		}
	case "http/protobuf":
		for i := range 2 {
			var spans []otlptracehttp.Option
			var metrics []otlpmetrichttp.Option
			var logs []otlploghttp.Option
			if i == 1 {
				spans = append(spans, otlptracehttp.WithEndpointURL(direct+"/v1/traces"))
				metrics = append(metrics, otlpmetrichttp.WithEndpointURL(direct+"/v1/metrics"))
				logs = append(logs, otlploghttp.WithEndpointURL(direct+"/v1/logs"))
			}
			var e error
			out.spans[i], e = otlptracehttp.New(ctx, spans...)
			fail(e)
			out.metrics[i], e = otlpmetrichttp.New(ctx, metrics...)
			fail(e)
			out.logs[i], e = otlploghttp.New(ctx, logs...)
			fail(e)
		}
	default:
		return out, fmt.Errorf("the Go SDK has no exporter for %q", protocol)
	}
	return out, err
}
