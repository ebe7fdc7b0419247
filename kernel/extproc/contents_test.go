package extproc

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// TestTwoContents: a message with two header maps has two readings, and so none.
func TestTwoContents(t *testing.T) {
	field := func(num protowire.Number, content string) string {
		return string(protowire.AppendString(protowire.AppendTag(nil, num, protowire.BytesType), content))
	}
	tests := []struct {
		name, message string
		want          error
	}{
		{"one map", field(2, field(1, "")+"\x18\x01"), nil},
		{"none", field(2, "\x18\x01"), nil},
		{"two maps", field(2, field(1, "")+field(1, "")), errTwoContents},
		{"two maps, apart", field(3, field(1, "")+"\x18\x01"+field(1, "")), errTwoContents},
		{"two bodies", field(4, field(1, "a")+field(1, "b")), errTwoContents},
		{"two maps of trailers", field(6, field(1, "")+field(1, "")), errTwoContents},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := phaseOf([]byte(tt.message)); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}
