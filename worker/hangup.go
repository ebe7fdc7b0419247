package worker

import (
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"unicode"

	"go.uber.org/zap"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/telemetry"
)

// FollowHangups has a worker read its configuration file again at each SIGHUP, until stop. The log level is taken over; what else has changed is told, because it takes a restart:
// with a second replica, that loses nothing.
func FollowHangups(running *config.Worker, log *telemetry.Logger) (stop func()) {
	hangups, ignore := telemetry.Hangups()
	done := make(chan struct{})
	var following sync.WaitGroup
	following.Go(func() {
		for {
			select {
			case <-hangups:
				reload(running, log)
			case <-done:
				return
			}
		}
	})
	return func() {
		ignore()
		close(done)
		following.Wait()
	}
}

// reload reads the file again.
func reload(running *config.Worker, log *telemetry.Logger) {
	next, err := config.LoadWorker(running.File)
	if err == nil {
		err = log.SetLevel(next.Observability.LogLevel)
	}
	var found config.Errors
	switch {
	case errors.As(err, &found):
		log.Error("reload: the configuration is not taken over; the last good one stays", zap.String("file", running.File), zap.Strings("mistakes", strings.Split(err.Error(), "\n")))
	case err != nil:
		log.Error("reload: the configuration is not taken over; the last good one stays", zap.String("file", running.File), zap.Error(err))
	default:
		logWarnings(log.Slog(), next)
		log.Info("reload: the log level is taken over", zap.String("file", running.File), zap.String("log_level", next.Observability.LogLevel))
		if keys := restartKeys(running, next); len(keys) > 0 {
			log.Warn("reload: some of what has changed takes effect with a restart of the worker only", zap.String("file", running.File), zap.Strings("keys", keys))
		}
	}
}

// restartKeys are the keys whose values differ, the log level aside.
func restartKeys(running, next *config.Worker) (keys []string) {
	a, b := reflect.ValueOf(withoutPlaces(running)), reflect.ValueOf(withoutPlaces(next))
	for i := range a.NumField() {
		if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			keys = append(keys, "policy_worker."+key(a.Type().Field(i).Name))
		}
	}
	return keys
}

// withoutPlaces is a copy without what says where something stands, and without the log level.
func withoutPlaces(w *config.Worker) config.Worker {
	c := *w
	c.File, c.Observability.LogLevel, c.Warnings = "", "", nil
	c.KeyStores = append([]config.KeyStore(nil), w.KeyStores...)
	for i := range c.KeyStores {
		c.KeyStores[i].Pos = config.Pos{}
	}
	c.JWTIssuers = append([]config.JWTIssuer(nil), w.JWTIssuers...)
	for i := range c.JWTIssuers {
		c.JWTIssuers[i].Pos = config.Pos{}
	}
	return c
}

// key is the key of a field: MaxConcurrentRequests is max_concurrent_requests, JWTIssuers is jwt_issuers.
func key(field string) string {
	var b strings.Builder
	runes := []rune(field)
	for i, r := range runes {
		if unicode.IsUpper(r) && i > 0 && (unicode.IsLower(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// logWarnings logs what is valid in the file and probably not meant.
func logWarnings(log *slog.Logger, cfg *config.Worker) {
	for _, w := range cfg.Warnings {
		log.Warn("the configuration is probably not what was meant", "warning", w.Error())
	}
}
