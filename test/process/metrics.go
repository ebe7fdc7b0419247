package process

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// pages is a client without connections that outlive a request, so that a program that is restarted is asked anew.
var pages = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// Get asks for a page of a program's and returns status and body.
func Get(url string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := pages.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// Metrics are the samples of one scrape: series with its labels, as it is written, to value.
type Metrics map[string]float64

// ParseMetrics reads the Prometheus text format.
func ParseMetrics(text string) (Metrics, error) {
	m := Metrics{}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		if i < 0 {
			return nil, fmt.Errorf("metrics: no value in %q", line)
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: value in %q: %w", line, err)
		}
		if _, twice := m[line[:i]]; twice {
			return nil, fmt.Errorf("metrics: %q comes twice", line[:i])
		}
		m[line[:i]] = v
	}
	return m, lines.Err()
}

// Sum adds the samples of a metric whose labels have all of those, each as it is written: name="value".
func (m Metrics) Sum(name string, labels ...string) float64 {
	var sum float64
	for series, value := range m {
		if matches(series, name, labels) {
			sum += value
		}
	}
	return sum
}

// Has reports whether there is such a sample.
func (m Metrics) Has(name string, labels ...string) bool {
	for series := range m {
		if matches(series, name, labels) {
			return true
		}
	}
	return false
}

func matches(series, name string, labels []string) bool {
	rest, ok := strings.CutPrefix(series, name)
	if !ok || rest != "" && rest[0] != '{' {
		return false
	}
	for _, label := range labels {
		if i := strings.Index(rest, label); i < 1 || rest[i-1] != '{' && rest[i-1] != ',' {
			return false
		}
	}
	return true
}
