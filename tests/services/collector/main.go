// The OpenTelemetry Collector as the end-to-end tests use it: its service, its OTLP receiver, and an exporter that
// writes what comes as OTLP JSON, a line each.
package main

import (
	"context"
	"log"
	"os"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry"
	"go.uber.org/zap"
)

type config struct {
	// Path is the file that lines are appended to.
	Path string `mapstructure:"path"`
}

// lines appends what comes to a file.
type lines struct {
	mutex sync.Mutex
	file  *os.File
}

func (l *lines) consume(_ context.Context, traces ptrace.Traces) error {
	line, err := (&ptrace.JSONMarshaler{}).MarshalTraces(traces)
	if err != nil {
		return err
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	_, err = l.file.Write(append(line, '\n'))
	return err
}

func create(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Traces, error) {
	file, err := os.OpenFile(cfg.(*config).Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return exporterhelper.NewTraces(ctx, set, cfg, (&lines{file: file}).consume)
}

// warnings go to stderr; the Collector's own metrics and traces are left out.
func warnings(context.Context, telemetry.LoggerSettings, component.Config) (*zap.Logger, component.ShutdownFunc, error) {
	settings := zap.NewProductionConfig()
	settings.Level = zap.NewAtomicLevelAt(zap.WarnLevel)
	logger, err := settings.Build()
	return logger, nil, err
}

func factories() (otelcol.Factories, error) {
	var factories otelcol.Factories
	var err error
	factories.Telemetry = telemetry.NewFactory(
		func() component.Config { return &struct{}{} },
		telemetry.WithCreateLogger(warnings),
	)
	otlp := otlpreceiver.NewFactory()
	factories.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](otlp)
	if err != nil {
		return factories, err
	}
	file := exporter.NewFactory(
		component.MustNewType("lines"),
		func() component.Config { return &config{} },
		exporter.WithTraces(create, component.StabilityLevelDevelopment),
	)
	factories.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](file)
	return factories, err
}

func main() {
	settings := otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "collector", Version: "0.155.0"},
		Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{
			ResolverSettings: confmap.ResolverSettings{
				ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory()},
				DefaultScheme:     "file",
			},
		},
	}
	if err := otelcol.NewCommand(settings).Execute(); err != nil {
		log.Fatal(err)
	}
}
