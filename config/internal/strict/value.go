package strict

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Duration is a Go duration, such as 500ms.
type Duration time.Duration

// UnmarshalText parses a Go duration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || len(text) == 1 { // A bare 0 is not a duration here.
		return fmt.Errorf("%s is not a duration; legal is a number with a unit, such as 500ms, 10s or 1h", quote(string(text)))
	}
	*d = Duration(v)
	return nil
}

// Pattern is for the schema.
func (Duration) Pattern() string { return `^\+?([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$` }

// String writes a duration as it is written in files.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// Size is a number of bytes, such as 64KiB.
type Size int64

var units = []struct {
	suffix string
	bytes  uint64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}}

// UnmarshalText parses an integer with a unit: B, KiB, MiB or GiB.
func (s *Size) UnmarshalText(text []byte) error {
	for _, u := range units {
		number, ok := strings.CutSuffix(string(text), u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 63)
		hi, lo := bits.Mul64(n, u.bytes)
		if err != nil || hi != 0 || lo > 1<<62 {
			break
		}
		*s = Size(lo)
		return nil
	}
	return fmt.Errorf("%s is not a size; legal is an integer with a unit, such as 512B, 64KiB, 1MiB or 1GiB", quote(string(text)))
}

// Pattern is for the schema.
func (Size) Pattern() string { return `^[0-9]+(B|KiB|MiB|GiB)$` }

// String writes a size with the largest unit that has no rest.
func (s Size) String() string {
	for i := 2; i >= 0; i-- {
		if n := int64(units[i].bytes); s != 0 && int64(s)%n == 0 {
			return strconv.FormatInt(int64(s)/n, 10) + units[i].suffix
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}
