package stage

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/policy-engine/policy-engine/test/process"
)

// goroutines is how many a process has, by its profile.
func goroutines(url string) (int, error) {
	status, body, err := process.Get(url)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d, %.300s", status, body)
	}
	if err != nil {
		return 0, fmt.Errorf("read the goroutines: %w", err)
	}
	return countSamples([]byte(body))
}

// The fields of profile.proto (github.com/google/pprof) that are read.
const (
	profileSample = 2
	sampleValue   = 2
)

// countSamples adds the values of a compressed profile's samples: in one of goroutines, their number.
func countSamples(compressed []byte) (int, error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return 0, fmt.Errorf("read a profile: %w", err)
	}
	profile, err := io.ReadAll(io.LimitReader(unzipped, 64<<20))
	if err != nil {
		return 0, fmt.Errorf("read a profile: %w", err)
	}
	sum := 0
	err = eachField(profile, profileSample, func(sample []byte) error {
		sample, n := protowire.ConsumeBytes(sample)
		if n < 0 {
			return protowire.ParseError(n)
		}
		return eachField(sample, sampleValue, func(value []byte) error {
			v, n := protowire.ConsumeVarint(value) // One, so runtime/pprof does not pack it.
			sum += int(v)
			return protowire.ParseError(min(n, 0))
		})
	})
	return sum, err
}

// eachField calls f with what follows the tag of each field of that number.
func eachField(message []byte, field protowire.Number, f func(value []byte) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return fmt.Errorf("read a profile: %w", protowire.ParseError(n))
		}
		message = message[n:]
		n = protowire.ConsumeFieldValue(number, kind, message)
		if n < 0 {
			return fmt.Errorf("read a profile: %w", protowire.ParseError(n))
		}
		if number == field {
			if err := f(message[:n]); err != nil {
				return fmt.Errorf("read a profile: %w", err)
			}
		}
		message = message[n:]
	}
	return nil
}
