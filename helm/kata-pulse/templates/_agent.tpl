{{/*
The agent's command line, and the directories of the node that it needs.
*/}}

{{- define "kata-pulse.port" -}}
{{ regexFind "[0-9]+$" .Values.config.listenAddress }}
{{- end -}}

{{/* One line for each flag. Lists are joined by commas, which no element may hold (values.schema.json). */}}
{{- define "kata-pulse.args" -}}
{{- $levels := .Values.config.levels -}}
{{- $disabled := .Values.config.disableMetrics -}}
{{- if eq .Values.mode "dropIn" -}}
{{- $levels = list "container" -}}
{{- $disabled = append $disabled "network" | uniq -}}
{{- end -}}
{{- with .Values.config -}}
- --listen-address={{ .listenAddress }}
{{- with .runtimeEndpoint }}
- --runtime-endpoint={{ . }}
{{- end }}
- --metrics-interval-secs={{ int .metricsIntervalSecs }}
- --host-interval-secs={{ int .hostIntervalSecs }}
- {{ printf "--log-level=%s" .logLevel | quote }}
- --log-format={{ .logFormat }}
{{- range .sandboxDirs }}
- --sandbox-dir={{ . }}
{{- end }}
- --procfs={{ .procfs }}
- --sysfs={{ .sysfs }}
- --ebpf={{ .ebpf }}
- --ebpf-directories={{ .ebpfDirectories }}
- --ebpf-programs={{ join "," .ebpfPrograms | default "none" }}
{{- if .threadDetail }}
- --thread-detail
{{- end }}
{{- if .qdisc }}
- --qdisc
{{- end }}
- --shim-metrics={{ .shimMetrics }}
- --levels={{ join "," $levels }}
{{- with $disabled }}
- --disable-metrics={{ join "," . }}
{{- end }}
{{- with .passthrough }}
- --passthrough={{ join "," . }}
{{- end }}
- --ended-retention-secs={{ int .endedRetentionSecs }}
{{- end }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
A JSON list of the node's directories to mount at the same place, so that every path that a runtime, a shim or a state
file names is valid in the container. What hostPaths.run does not cover is added: the directory of the runtime's socket,
never the socket, which is another file after the runtime's restart; the parent of a base directory, which may be
made later.
*/}}
{{- define "kata-pulse.hostPaths" -}}
{{- $paths := .Values.hostPaths.run -}}
{{- $wanted := list -}}
{{- with .Values.config.runtimeEndpoint -}}
{{- $folder := trimPrefix "unix://" . | dir -}}
{{- $wanted = append $wanted (dict "path" $folder "mount" $folder) -}}
{{- end -}}
{{- range .Values.config.sandboxDirs -}}
{{- $path := regexReplaceAll "^(go|rust):" . "" | clean -}}
{{- $wanted = append $wanted (dict "path" $path "mount" (ternary $path (dir $path) (eq (dir $path) "/"))) -}}
{{- end -}}
{{- range $want := $wanted -}}
{{- $covered := false -}}
{{- range $paths -}}
{{- if or (eq $want.path .) (hasPrefix (printf "%s/" .) $want.path) -}}
{{- $covered = true -}}
{{- end -}}
{{- end -}}
{{- if not $covered -}}
{{- $paths = append $paths $want.mount -}}
{{- end -}}
{{- end -}}
{{- toJson ($paths | uniq) -}}
{{- end -}}

{{/* The volume of a directory: /var/lib/x becomes host-var-lib-x. */}}
{{- define "kata-pulse.volumeName" -}}
{{- printf "host%s" (regexReplaceAll "[^a-z0-9]+" (lower .) "-") | trunc 63 | trimSuffix "-" -}}
{{- end -}}
