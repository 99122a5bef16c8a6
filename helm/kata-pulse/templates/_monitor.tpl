{{/*
How Prometheus' operator is told to scrape. files/podmonitor-*.yaml are the blocks of docs/prometheus.md, where alone
they are written (`cargo xtask docs` copies them).
*/}}

{{/* The PodMonitor of docs/prometheus.md for this mode. */}}
{{- define "kata-pulse.documented" -}}
{{- .Files.Get (printf "files/podmonitor-%s.yaml" (ternary "kubelet" "own" (eq .Values.mode "dropIn"))) -}}
{{- end -}}

{{/* Its endpoint with the values of `monitor`. In: root, monitor. */}}
{{- define "kata-pulse.endpoint" -}}
{{- $endpoint := first (include "kata-pulse.documented" .root | fromYaml).spec.podMetricsEndpoints -}}
{{- $_ := set $endpoint "interval" .monitor.interval -}}
{{- with .monitor.scrapeTimeout -}}
{{- $_ := set $endpoint "scrapeTimeout" . -}}
{{- end -}}
{{- range $key := list "relabelings" "metricRelabelings" -}}
{{- with get $.monitor $key -}}
{{- $_ := set $endpoint $key (concat (get $endpoint $key | default list) .) -}}
{{- end -}}
{{- end -}}
{{- toYaml $endpoint -}}
{{- end -}}

{{- define "kata-pulse.jobLabel" -}}
{{- with (include "kata-pulse.documented" . | fromYaml).spec.jobLabel -}}
jobLabel: {{ . }}
{{- end -}}
{{- end -}}

{{- define "kata-pulse.operatorLabels" -}}
{{ include "kata-pulse.labels" . }}
{{- with .Values.operatorLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}
