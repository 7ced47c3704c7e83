// Command kstatus says how Flux and other users of kstatus read custom resources.
//
// It reads a JSON array of objects from standard input and prints a JSON array of the same length:
// {"status": ..., "message": ...} for each object, as the library computes it.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type reading struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var documents []json.RawMessage
	if err := json.NewDecoder(os.Stdin).Decode(&documents); err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	readings := make([]reading, 0, len(documents))
	for index, document := range documents {
		object := &unstructured.Unstructured{}
		// Numbers as the API machinery decodes them: integers stay integers.
		if err := object.UnmarshalJSON(document); err != nil {
			return fmt.Errorf("object %d: %w", index, err)
		}
		result, err := status.Compute(object)
		if err != nil {
			return fmt.Errorf("object %d: %w", index, err)
		}
		readings = append(readings, reading{string(result.Status), result.Message})
	}
	return json.NewEncoder(os.Stdout).Encode(readings)
}
