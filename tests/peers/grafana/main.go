// Reads a Grafana board from standard input, by the schema that Grafana publishes for one
// (grafana-foundation-sdk, which is generated from Grafana's own). It fails if a field isn't in the
// schema, has another type or breaks a constraint, and says which.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

func main() {
	// what is inside queries and panels is checked too
	cog.NewRuntime().RegisterDataqueryVariant(prometheus.VariantConfig())
	cog.NewRuntime().RegisterPanelcfgVariant(stat.VariantConfig())
	cog.NewRuntime().RegisterPanelcfgVariant(timeseries.VariantConfig())
	text, err := io.ReadAll(os.Stdin)
	refuse(err)
	var board dashboard.Dashboard
	refuse(board.UnmarshalJSONStrict(text))
	refuse(board.Validate())
}

// refuse ends the program with an error; an empty list of errors, which the package also returns
// as one, is none.
func refuse(err error) {
	if err != nil && err.Error() != "" {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
