{{/*
What the container may do, in the two profiles.
*/}}

{{/* Capabilities of the least-privilege profile; each has a test that shows what stops without it. */}}
{{- define "kata-pulse.capabilities" -}}
- BPF {{- /* load eBPF programs, make their maps */}}
- PERFMON {{- /* attach them to tracepoints and functions of the kernel */}}
- SYS_PTRACE {{- /* executable, root, namespaces, I/O and memory of other processes in /proc: all of VMMs and shims */}}
- DAC_READ_SEARCH {{- /* directories and state files that belong to the users of rootless VMMs */}}
{{- if .Values.config.qdisc }}
- SYS_ADMIN {{- /* enter the network namespaces of pods, for --qdisc */}}
{{- end }}
{{- end -}}

{{- define "kata-pulse.securityContext" -}}
{{- with .Values.security -}}
runAsUser: 0
runAsGroup: 0
readOnlyRootFilesystem: true
{{- if eq .profile "privileged" }}
privileged: true
{{- else }}
privileged: false
allowPrivilegeEscalation: false
capabilities:
  drop:
    - ALL
  add:
    {{- include "kata-pulse.capabilities" $ | nindent 4 }}
    {{- with .extraCapabilities }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
seccompProfile:
  {{- if .seccompProfile }}
  type: Localhost
  localhostProfile: {{ .seccompProfile }}
  {{- else }}
  type: Unconfined
  {{- end }}
{{- end }}
{{- if and .appArmorProfile (semverCompare ">=1.30.0-0" $.Capabilities.KubeVersion.Version) }}
appArmorProfile:
  {{- toYaml .appArmorProfile | nindent 2 }}
{{- end }}
{{- with .seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Before Kubernetes 1.30 AppArmor is an annotation of the pod, with words of its own. */}}
{{- define "kata-pulse.appArmorAnnotation" -}}
{{- with .Values.security.appArmorProfile -}}
{{- if semverCompare "<1.30.0-0" $.Capabilities.KubeVersion.Version -}}
{{- $words := dict "Unconfined" "unconfined" "RuntimeDefault" "runtime/default" -}}
container.apparmor.security.beta.kubernetes.io/kata-pulse: {{ get $words .type | default (printf "localhost/%s" .localhostProfile) }}
{{- end -}}
{{- end -}}
{{- end -}}
