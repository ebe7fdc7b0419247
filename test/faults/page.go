package main

import (
	"fmt"
	"strings"

	"github.com/policy-engine/policy-engine/loadtest/chart"
)

// page is the report to look at.
func (s *summary) page() []byte {
	rows := [][]string{{"fault", "sent", "bypassed", "lost", "excused", "outage s", "full service s", "slowest s", "stage, and what is wrong"}}
	for _, o := range s.Faults {
		c := &o.Count
		rows = append(rows, []string{
			o.Fault, fmt.Sprint(c.Sent), fmt.Sprint(c.Bypassed), fmt.Sprint(c.Lost), fmt.Sprint(c.Excused), fmt.Sprintf("%.2f", o.Outage.Seconds()),
			fmt.Sprintf("%.2f", o.Full.Seconds()), fmt.Sprintf("%.2f", c.Slowest.Seconds()), strings.Join(append([]string{o.Stage}, o.Problems...), "; "),
		})
	}
	return chart.Page(
		"Faults",
		chart.Text("Each fault is played under traffic of valid and invalid requests. Bypassed: reached the upstream unchecked. Lost: valid, and failed while somebody was there who could serve it. "+
			"Excused: valid, and failed while nobody was."),
		chart.Figures([][2]string{
			{"faults", fmt.Sprint(s.Injected)},
			{"failed", fmt.Sprint(s.Failed)},
			{"requests", fmt.Sprint(s.Requests)},
			{"requests per second", fmt.Sprintf("%.0f", s.sent())},
			{"bypassed", fmt.Sprint(s.Bypassed)},
			{"lost", fmt.Sprint(s.Lost)},
			{"worker's crash to full service", fmt.Sprintf("%.2f s", s.Crash.Seconds())},
		}),
		chart.Table(rows),
	)
}
