package kernel

import (
	"bytes"
	"context"
	"io"

	"github.com/policy-engine/policy-engine/telemetry"
)

// writeMetrics writes the metrics of the kernel and of all workers. It fails only when the scraper is gone.
func (k *kernel) writeMetrics(ctx context.Context, w io.Writer) error {
	if err := telemetry.WriteMetrics(w, k.set); err != nil {
		return err
	}
	// Those of the processes stand together, as the format wants it of one name.
	e := telemetry.NewExposition()
	var own bytes.Buffer
	if err := telemetry.WriteProcessMetrics(&own); err != nil {
		return err
	}
	e.Add(own.Bytes(), telemetry.Source{Process: telemetry.ProcessLabels("component", "kernel")})
	k.registry.CollectMetrics(ctx, e)
	return e.Write(w)
}
